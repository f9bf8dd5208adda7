package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stockstream/stockstream/internal/wait"
)

// chunksPerGroup is how many chunks are read before the expected state is advanced to
// them, one after the other.
const chunksPerGroup = 25

// compareRedis compares the tracked stock and holds with Redis, and then the number of
// deadlines. Holds that ended before the audit's end were compared while the journal was
// applied.
func (a *auditor) compareRedis(ctx context.Context) error {
	skus := slices.Sorted(maps.Keys(a.expected.stock))
	if err := a.compareKeys(ctx, skus, nil); err != nil {
		return err
	}
	if err := a.compareKeys(ctx, nil, slices.Sorted(maps.Keys(a.expected.holds))); err != nil {
		return err
	}
	a.found.count(func(c *Compared) { c.SKUs += int64(len(skus)) })
	return a.compareDueCount(ctx)
}

// compareKeys compares keys chunk by chunk, each chunk at the exact seq at which it was
// read. It takes SKUs or hold ids, not both. It reads a group of chunks before it
// compares them, to wait for the journal once per group and not once per chunk.
func (a *auditor) compareKeys(ctx context.Context, skus, holdIDs []string) error {
	for len(skus)+len(holdIDs) > 0 {
		var group []*redisChunk
		for len(group) < chunksPerGroup && len(skus)+len(holdIDs) > 0 {
			chunkSKUs := skus[:min(keysPerChunk, len(skus))]
			chunkIDs := holdIDs[:min(keysPerChunk, len(holdIDs))]
			skus = skus[len(chunkSKUs):]
			holdIDs = holdIDs[len(chunkIDs):]
			c, err := a.readRedis(ctx, chunkSKUs, chunkIDs)
			if err != nil || c == nil {
				return err
			}
			group = append(group, c)
		}
		for _, c := range group {
			if reached, err := a.advanceTo(ctx, c.seq); err != nil || !reached {
				return err
			}
			a.compareStock(c)
			if err := a.compareHolds(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// readRedis reads a chunk at a seq that is not before the audit's end. It waits for a log
// that has not reached the end: a restore may be running. A nil chunk means that Redis
// cannot be compared, and that this was reported.
func (a *auditor) readRedis(ctx context.Context, skus, holdIDs []string) (*redisChunk, error) {
	deadline := time.Now().Add(a.config.Wait)
	for !a.redisUnusable.Load() {
		c, err := readRedisChunk(ctx, a.config.Redis, a.config.Pool, skus, holdIDs)
		if err == nil && c.seq >= a.end {
			return c, nil
		}
		if err != nil && !errors.Is(err, errNoLog) {
			return nil, err
		}
		if time.Now().After(deadline) {
			a.reportRedisUnusable(c)
			break
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// reportRedisUnusable reports once why Redis cannot be compared: it has no log (c is
// nil), or its log ends before the journal, which means that it has lost events.
func (a *auditor) reportRedisUnusable(c *redisChunk) {
	switch {
	case a.redisUnusable.Swap(true):
	case c == nil:
		a.found.addIncomplete("Redis has no log for this pool, or is being restored")
	default:
		a.found.addDifference(Difference{
			Store:    StoreRedis,
			Kind:     KindBehind,
			Key:      a.config.Pool.MetaKey(),
			Expected: fmt.Sprintf("a log that ends at seq %d or later", a.end),
			Found:    fmt.Sprintf("it ends at seq %d", c.seq),
			Seq:      a.end,
		})
	}
}
