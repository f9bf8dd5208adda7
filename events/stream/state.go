package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// State describes a stream, and the consumer group that prevents it from being trimmed
// further.
type State struct {
	Entries int64
	Oldest  time.Time // when the first entry was appended, by Redis's clock; zero for an empty stream
	// HeldBy is the group that is furthest behind, or "" if every group has read and
	// acknowledged all entries. The entries that it needs stay, however old they become.
	HeldBy string
}

// Describe returns the state of a pool's stream. A stream that does not exist has no
// entries.
func Describe(ctx context.Context, client redis.Cmdable, pool events.Pool) (State, error) {
	groups, err := Groups(ctx, client, pool.StreamKey())
	if err != nil {
		return State{}, err
	}
	info, err := client.XInfoStream(ctx, pool.StreamKey()).Result()
	if err != nil {
		if isMissing(err) {
			return State{}, nil
		}
		return State{}, fmt.Errorf("read the stream's state: %w", err)
	}
	state := State{Entries: info.Length}
	if info.Length == 0 {
		return state, nil
	}
	first, err := ParseID(info.FirstEntry.ID)
	if err != nil {
		return State{}, err
	}
	last, err := ParseID(info.LastEntry.ID)
	if err != nil {
		return State{}, err
	}
	state.Oldest = time.UnixMilli(int64(first.Ms)) //nolint:gosec // milliseconds since 1970 fit
	if !hasGroup(groups, events.ConsumerGroup) {
		// The journal has not started yet, so it needs every entry.
		groups = append(groups, Group{Name: events.ConsumerGroup})
	}
	if group := furthestBehind(groups); !last.Less(group.Needs) {
		state.HeldBy = group.Name
	}
	return state, nil
}

// agePageMax is how many entries UnjournaledAge reads. The group follows the journal, so
// the first entries that it has not acknowledged decide.
const agePageMax = 100

// UnjournaledAge returns how long ago the oldest event that is not journaled was decided,
// by Redis's clock, given the seq at which the journal ends. It is 0 if the stream has no
// such event.
func UnjournaledAge(
	ctx context.Context, client redis.Cmdable, pool events.Pool, journaled int64,
) (time.Duration, error) {
	groups, err := Groups(ctx, client, pool.StreamKey())
	if err != nil {
		return 0, err
	}
	from := "-"
	for _, group := range groups {
		if group.Name == events.ConsumerGroup {
			from = group.Needs.String()
		}
	}
	entries, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", agePageMax).Result()
	if err != nil {
		return 0, fmt.Errorf("read the stream: %w", err)
	}
	if len(entries) == 0 {
		return 0, nil
	}
	oldest := entries[0]
	for _, entry := range entries {
		if events.EntrySeq(entry.Values) > journaled {
			oldest = entry
			break
		}
	}
	decidedAt, err := events.ParseMillis(events.FieldText(oldest.Values[events.FieldAt]))
	if err != nil {
		return 0, nil //nolint:nilerr // a foreign entry without a time
	}
	now, err := client.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("read Redis's clock: %w", err)
	}
	return max(0, now.Sub(decidedAt)), nil
}
