package stream

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Group is a consumer group of a stream.
type Group struct {
	Name  string
	Needs ID // the lowest id that the group has yet to read or to acknowledge
}

// Groups returns the consumer groups of a stream, or none if the stream does not exist.
func Groups(ctx context.Context, client redis.Cmdable, stream string) ([]Group, error) {
	infos, err := client.XInfoGroups(ctx, stream).Result()
	if err != nil {
		if isMissing(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read the stream's groups: %w", err)
	}
	groups := make([]Group, len(infos))
	for i, info := range infos {
		delivered, err := ParseID(info.LastDeliveredID)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", info.Name, err)
		}
		groups[i] = Group{Name: info.Name, Needs: delivered.Next()}
		if info.Pending == 0 {
			continue
		}
		pending, err := client.XPending(ctx, stream, info.Name).Result()
		if err != nil {
			return nil, fmt.Errorf("read the pending entries of group %s: %w", info.Name, err)
		}
		if pending.Count == 0 {
			continue // they were acknowledged meanwhile
		}
		lowest, err := ParseID(pending.Lower)
		if err != nil {
			return nil, fmt.Errorf("group %s: %w", info.Name, err)
		}
		if lowest.Less(groups[i].Needs) {
			groups[i].Needs = lowest
		}
	}
	return groups, nil
}

// furthestBehind returns the group that needs the lowest id. There must be at least one
// group.
func furthestBehind(groups []Group) Group {
	last := groups[0]
	for _, group := range groups[1:] {
		if group.Needs.Less(last.Needs) {
			last = group
		}
	}
	return last
}

// claimGroup creates the journal's group if it is missing, and removes its consumers. It
// reports whether there were any.
func (r *Reader) claimGroup(ctx context.Context) (hadConsumers bool, err error) {
	groups, err := Groups(ctx, r.Redis, r.Pool.StreamKey())
	if err != nil {
		return false, err
	}
	// A full Redis refuses to create a group even if it exists, so it is created only if
	// it is missing.
	if !hasGroup(groups, events.ConsumerGroup) {
		err := r.Redis.XGroupCreateMkStream(ctx, r.Pool.StreamKey(), events.ConsumerGroup, "0").Err()
		if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
			return false, fmt.Errorf("create group %s: %w", events.ConsumerGroup, err)
		}
	}
	return r.RemoveConsumers(ctx)
}

// RemoveConsumers removes every consumer of the journal's group and reports whether there
// were any. A consumer does not disturb the journal, which does not read through the
// group. But entries that were delivered to the consumer and not acknowledged would stay
// on the stream for ever.
func (r *Reader) RemoveConsumers(ctx context.Context) (hadConsumers bool, err error) {
	consumers, err := r.Redis.XInfoConsumers(ctx, r.Pool.StreamKey(), events.ConsumerGroup).Result()
	if err != nil {
		return false, fmt.Errorf("list the consumers of group %s: %w", events.ConsumerGroup, err)
	}
	for _, consumer := range consumers {
		removal := r.Redis.XGroupDelConsumer(ctx, r.Pool.StreamKey(), events.ConsumerGroup, consumer.Name)
		pending, err := removal.Result()
		if err != nil {
			return true, fmt.Errorf("remove consumer %s of group %s: %w",
				consumer.Name, events.ConsumerGroup, err)
		}
		r.Log.Warn("a consumer was removed from the journal's group; read with a group of your own",
			"consumer", consumer.Name, "pending", pending)
	}
	return len(consumers) > 0, nil
}

// isMissing reports whether Redis answered that the key does not exist.
func isMissing(err error) bool { return redis.HasErrorPrefix(err, "no such key") }

func hasGroup(groups []Group, name string) bool {
	for _, group := range groups {
		if group.Name == name {
			return true
		}
	}
	return false
}
