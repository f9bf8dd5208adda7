package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/internal/wait"
)

// groupChunks is how many chunks are read before the fold is brought forward to them, one after the other.
const groupChunks = 25

// compareEnded compares holds that have ended with Redis. They do not change any more, so any place of the log that is
// not before their end will do.
func (a *auditor) compareEnded(ctx context.Context, holds []*expectedHold) error {
	for part := range slices.Chunk(holds, chunkKeys) {
		ids := make([]string, len(part))
		for i, hold := range part {
			ids[i] = hold.ID
		}
		if forgotten, err := a.forgotten(ctx, ids); err != nil || forgotten {
			if err != nil {
				return err
			}
			continue
		}
		c, err := a.readRedis(ctx, nil, ids)
		if err != nil || c == nil {
			return err
		}
		var suspects []divergence
		for i, hold := range part {
			if kind, differs := holdFault(hold, c.hashes[i]); differs {
				suspects = append(suspects, a.redisSuspect(kind, hold, hold.ID, c.hashes[i], c.seq))
			}
		}
		if err := a.judge(ctx, a.conns.ended, deadletters.SourceSaga, suspects); err != nil {
			return err
		}
	}
	return nil
}

// forgotten reports whether Redis has none of these holds any more, which is so for most of a long history. A full audit
// finds a deadline that outlived its hold by the number of deadlines; any other looks at each.
func (a *auditor) forgotten(ctx context.Context, ids []string) (bool, error) {
	if !a.full {
		return false, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = a.config.Pool.HoldKey(id)
	}
	count, err := a.config.Redis.Exists(ctx, keys...).Result()
	if err != nil {
		return false, fmt.Errorf("read Redis: %w", err)
	}
	return count == 0, nil
}

// readRedis reads a chunk, and makes sure that it is not before the audit's end: a Redis that is behind the journal has
// lost events. A nil chunk says that this was noted, and that Redis cannot be compared.
func (a *auditor) readRedis(ctx context.Context, skus, holds []string) (*chunk, error) {
	deadline := time.Now().Add(a.config.Wait)
	for !a.redisLost.Load() {
		c, err := readChunk(ctx, a.config.Redis, a.config.Pool, skus, holds)
		if err == nil && c.seq >= a.end {
			return c, nil
		}
		if err != nil && !errors.Is(err, errNoLog) {
			return nil, err
		}
		if time.Now().After(deadline) {
			a.noteRedisLost(c)
			break
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// noteRedisLost says, once, why Redis cannot be compared: it has no log (nil), or one that ends too early.
func (a *auditor) noteRedisLost(c *chunk) {
	switch {
	case a.redisLost.Swap(true):
	case c == nil:
		a.found.incomplete("Redis has no log for this pool, or is being rebuilt")
	default:
		a.found.differs(Difference{Store: StoreRedis, Kind: KindBehind, Key: a.config.Pool.MetaKey(), Seq: a.end,
			Expected: fmt.Sprintf("a log that ends at seq %d or later", a.end), Found: fmt.Sprintf("it ends at seq %d", c.seq)})
	}
}

// compareLive compares with Redis the stock and the live holds that the settled fold follows, each chunk at the exact
// place of the log at which it was read.
func (a *auditor) compareLive(ctx context.Context) error {
	skus := slices.Sorted(maps.Keys(a.expected.stock))
	if err := a.compareKeys(ctx, skus, nil); err != nil {
		return err
	}
	if err := a.compareKeys(ctx, nil, slices.Sorted(maps.Keys(a.expected.holds))); err != nil {
		return err
	}
	a.found.compared(func(c *Compared) { c.SKUs += int64(len(skus)) })
	return a.compareDueCount(ctx)
}

// compareKeys compares keys of one sort. Reading some chunks at once saves waiting for the journal after each.
func (a *auditor) compareKeys(ctx context.Context, skus, holds []string) error {
	for len(skus)+len(holds) > 0 {
		var group []*chunk
		for len(group) < groupChunks && len(skus)+len(holds) > 0 {
			s, h := skus[:min(chunkKeys, len(skus))], holds[:min(chunkKeys, len(holds))]
			skus, holds = skus[len(s):], holds[len(h):]
			c, err := a.readRedis(ctx, s, h)
			if err != nil || c == nil {
				return err
			}
			group = append(group, c)
		}
		for _, c := range group {
			if there, err := a.follow(ctx, c.seq); err != nil || !there {
				return err
			}
			if err := a.compareChunk(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// follow brings the fold to a seq, and reports whether it came there. That the journal stands still is noted once.
func (a *auditor) follow(ctx context.Context, seq int64) (there bool, err error) {
	if a.journalStuck.Load() && a.expected.seq < seq {
		return false, nil
	}
	err = a.scan.to(ctx, seq)
	if errors.Is(err, errNotThere) {
		a.journalStuck.Store(true)
		a.found.incomplete("%v", err)
		return false, nil
	}
	return err == nil, err
}

func (a *auditor) compareChunk(ctx context.Context, c *chunk) error {
	for i, sku := range c.skus {
		stock := a.expected.stock[sku]
		differs, pending := stockFault(stock, c.stock[i])
		d := Difference{Store: StoreRedis, Kind: KindChanged, Key: a.config.Pool.StockKey(sku), Seq: c.seq, Expected: "no event has named it",
			Found: fmt.Sprintf("%s available, %s recorded", or(c.stock[i].counter), or(c.stock[i].recorded))}
		if stock != nil {
			d.Expected = fmt.Sprintf("%d available, %d recorded", stock.Available(), stock.Available())
		}
		switch {
		case differs:
			a.found.differs(d)
		case pending:
			d.Because = "it was set by hand; the next command for this SKU records it"
			a.found.pending(d)
		}
	}
	var suspects []divergence
	known := int64(0)
	for i, id := range c.holds {
		hold := a.expected.holds[id]
		if hold != nil {
			known++
		}
		if kind, differs := holdFault(hold, c.hashes[i]); differs {
			suspects = append(suspects, a.redisSuspect(kind, hold, id, c.hashes[i], c.seq))
		}
	}
	a.found.compared(func(n *Compared) { n.Holds += known })
	return a.judge(ctx, a.conns.work, deadletters.SourceSaga, suspects)
}

// compareDueCount compares how many holds are due some day with how many are live. It finds what none of the compared
// keys shows, in a single step; a full audit, which has compared every live hold, then looks for the others. Holds that
// the saga has given up on are live, and in its dead letters instead.
func (a *auditor) compareDueCount(ctx context.Context) error {
	c, err := a.readRedis(ctx, nil, nil)
	if err != nil || c == nil {
		return err
	}
	if there, err := a.follow(ctx, c.seq); err != nil || !there {
		return err
	}
	missing := a.expected.totals.live - c.live
	if missing == 0 {
		return nil
	}
	parked, err := deadletters.ParkedKeys(ctx, a.conns.work, deadletters.SourceSaga, a.config.Pool.Name())
	if err != nil || missing > 0 && missing <= int64(len(parked)) {
		return err
	}
	a.found.differs(Difference{Store: StoreRedis, Kind: KindCount, Key: a.config.Pool.DueKey(), Seq: c.seq,
		Expected: fmt.Sprintf("%d live holds", a.expected.totals.live), Found: fmt.Sprintf("%d members", c.live)})
	if a.full {
		return a.compareDue(ctx)
	}
	return nil
}

func (a *auditor) redisSuspect(kind Kind, hold *expectedHold, id string, found redisHold, seq int64) divergence {
	d := Difference{Store: StoreRedis, Kind: kind, Key: a.config.Pool.HoldKey(id), Expected: "no live hold", Found: found.String(), Seq: seq}
	if hold != nil {
		d.Expected = hold.String()
	}
	if kind == KindMissing {
		d.Found = found.due()
	}
	s := divergence{difference: d, hold: hold}
	if hold != nil && hold.Status == statusActive && same(hold, found) && found.score == nil {
		s.sequenceKey = id // the saga may have taken it off the set, and would have left a dead letter
	}
	return s
}
