package events

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"

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

// freeGroup takes consumers out of the journal's group. Whoever reads through it takes nothing from the journal, but what
// was handed out and not acknowledged would stay on the stream for ever.
func freeGroup(ctx context.Context, client redis.Cmdable, pool Pool, log *slog.Logger) error {
	consumers, err := client.XInfoConsumers(ctx, pool.StreamKey(), ConsumerGroup).Result()
	if err != nil {
		return fmt.Errorf("look at the consumers of group %s: %w", ConsumerGroup, err)
	}
	for _, consumer := range consumers {
		pending, err := client.XGroupDelConsumer(ctx, pool.StreamKey(), ConsumerGroup, consumer.Name).Result()
		if err != nil {
			return fmt.Errorf("remove consumer %s of group %s: %w", consumer.Name, ConsumerGroup, err)
		}
		log.Warn("a consumer was removed from the journal's group; read with a group of your own", "consumer", consumer.Name, "pending", pending)
	}
	return nil
}

// journalHas reports whether the journal has every event before an id. The sequence of a stream only grows, so the last
// event before it tells; what no command wrote, and what carries a seq that was never assigned, tells nothing.
func journalHas(ctx context.Context, client redis.Cmdable, pool Pool, before streamID, journaled, end int64) (bool, error) {
	const lookBack = 100
	entries, err := client.XRevRangeN(ctx, pool.StreamKey(), "("+before.String(), "-", lookBack).Result()
	if err != nil {
		return false, fmt.Errorf("look at the stream: %w", err)
	}
	for _, entry := range entries {
		seq, err := strconv.ParseInt(text(entry.Values[fieldSeq]), 10, 64)
		if err == nil && seq >= 1 && seq <= end {
			return seq <= journaled, nil
		}
	}
	return len(entries) < lookBack, nil // nothing of ours is before it, or nothing is known
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
