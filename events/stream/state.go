package stream

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// State is what a stream holds, and who keeps it from becoming shorter.
type State struct {
	Entries int64
	Oldest  time.Time // when its first entry was appended, by Redis's clock; zero where there is none
	// HeldBy is the consumer group that is furthest behind, of those that have entries to read or to acknowledge; ""
	// for none. Entries that it needs stay, however old they become.
	HeldBy string
}

// Describe returns the state of a pool's stream. A stream that is not there has no entries.
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
		return State{}, fmt.Errorf("look at the stream: %w", err)
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
		groups = append(groups, Group{Name: events.ConsumerGroup}) // the journal has yet to begin
	}
	if group := furthestBehind(groups); !last.Less(group.Needs) {
		state.HeldBy = group.Name
	}
	return state, nil
}
