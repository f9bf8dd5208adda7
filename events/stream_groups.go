package events

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/redis/go-redis/v9"
)

// streamGroup is a consumer group of a stream, and the first id that it still needs: what it has not acknowledged, or
// not yet read.
type streamGroup struct {
	name  string
	needs streamID
}

// streamGroups returns the consumer groups of a stream; none, where there is no stream.
func streamGroups(ctx context.Context, client redis.Cmdable, stream string) ([]streamGroup, error) {
	infos, err := client.XInfoGroups(ctx, stream).Result()
	if err != nil {
		if isMissing(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("look at the groups of the stream: %w", err)
	}
	groups := make([]streamGroup, len(infos))
	for i, info := range infos {
		delivered, err := parseStreamID(info.LastDeliveredID)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", info.Name, err)
		}
		groups[i] = streamGroup{name: info.Name, needs: delivered.next()}
		if info.Pending == 0 {
			continue
		}
		pending, err := client.XPending(ctx, stream, info.Name).Result()
		if err != nil {
			return nil, fmt.Errorf("look at what is pending in group %s: %w", info.Name, err)
		}
		if pending.Count == 0 {
			continue // acknowledged since
		}
		lowest, err := parseStreamID(pending.Lower)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", info.Name, err)
		}
		if lowest.less(groups[i].needs) {
			groups[i].needs = lowest
		}
	}
	return groups, nil
}

// furthestBehind returns the group that needs the lowest id. There must be one.
func furthestBehind(groups []streamGroup) streamGroup {
	last := groups[0]
	for _, group := range groups[1:] {
		if group.needs.less(last.needs) {
			last = group
		}
	}
	return last
}

// takeGroup makes the journal's group where there is none, and frees it of consumers. It reports whether there were any.
func takeGroup(ctx context.Context, client redis.Cmdable, pool Pool, log *slog.Logger) (wasRead bool, err error) {
	groups, err := streamGroups(ctx, client, pool.StreamKey())
	if err != nil {
		return false, err
	}
	if !hasGroup(groups, ConsumerGroup) { // a Redis that is full refuses to make one, even where there is one
		err := client.XGroupCreateMkStream(ctx, pool.StreamKey(), ConsumerGroup, "0").Err()
		if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
			return false, fmt.Errorf("create group %s: %w", ConsumerGroup, err)
		}
	}
	return freeGroup(ctx, client, pool, log)
}

// freeGroup takes consumers out of the journal's group, and reports whether there were any. Whoever reads through it takes
// nothing from the journal, but what was handed out and not acknowledged would stay on the stream for ever.
func freeGroup(ctx context.Context, client redis.Cmdable, pool Pool, log *slog.Logger) (wasRead bool, err error) {
	consumers, err := client.XInfoConsumers(ctx, pool.StreamKey(), ConsumerGroup).Result()
	if err != nil {
		return false, fmt.Errorf("look at the consumers of group %s: %w", ConsumerGroup, err)
	}
	for _, consumer := range consumers {
		pending, err := client.XGroupDelConsumer(ctx, pool.StreamKey(), ConsumerGroup, consumer.Name).Result()
		if err != nil {
			return true, fmt.Errorf("remove consumer %s of group %s: %w", consumer.Name, ConsumerGroup, err)
		}
		log.Warn("a consumer was removed from the journal's group; read with a group of your own", "consumer", consumer.Name, "pending", pending)
	}
	return len(consumers) > 0, nil
}

// isMissing reports whether Redis answered that there is no such key.
func isMissing(err error) bool { return redis.HasErrorPrefix(err, "no such key") }

func hasGroup(groups []streamGroup, name string) bool {
	for _, group := range groups {
		if group.name == name {
			return true
		}
	}
	return false
}
