package events

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// StreamState is what a stream holds, and who keeps it from becoming shorter.
type StreamState struct {
	Entries int64
	Oldest  time.Time // when its first entry was appended, by Redis's clock; zero where there is none
	// HeldBy is the consumer group that is furthest behind, of those that have entries to read or to acknowledge; ""
	// for none. Entries that it needs stay, however old they become.
	HeldBy string
}

// DescribeStream returns the state of a pool's stream. A stream that is not there has no entries.
func DescribeStream(ctx context.Context, client redis.Cmdable, pool Pool) (StreamState, error) {
	groups, err := streamGroups(ctx, client, pool.StreamKey())
	if err != nil {
		return StreamState{}, err
	}
	info, err := client.XInfoStream(ctx, pool.StreamKey()).Result()
	if err != nil {
		if isMissing(err) {
			return StreamState{}, nil
		}
		return StreamState{}, fmt.Errorf("look at the stream: %w", err)
	}
	state := StreamState{Entries: info.Length}
	if info.Length == 0 {
		return state, nil
	}
	first, err := parseStreamID(info.FirstEntry.ID)
	if err != nil {
		return StreamState{}, err
	}
	last, err := parseStreamID(info.LastEntry.ID)
	if err != nil {
		return StreamState{}, err
	}
	state.Oldest = time.UnixMilli(int64(first.ms)) //nolint:gosec // milliseconds since 1970 fit
	if !hasGroup(groups, ConsumerGroup) {
		groups = append(groups, streamGroup{name: ConsumerGroup}) // the journal has yet to begin
	}
	if group := furthestBehind(groups); !last.less(group.needs) {
		state.HeldBy = group.name
	}
	return state, nil
}
