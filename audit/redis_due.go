package audit

import (
	"context"
	"fmt"

	"github.com/stockstream/stockstream/deadletters"
)

// compareDueCount compares the number of deadlines in holds:due with the number of live
// holds. This finds a deadline without a hold, and a hold without a deadline, even among
// keys that this audit does not compare. If the numbers differ, a full audit also
// searches for the deadlines without a hold; it has compared every live hold before.
//
// A live hold that the saga has parked has a dead letter instead of a deadline. So the
// number of deadlines may be lower by the number of parked holds.
func (a *auditor) compareDueCount(ctx context.Context) error {
	c, err := a.readRedis(ctx, nil, nil)
	if err != nil || c == nil {
		return err
	}
	if reached, err := a.advanceTo(ctx, c.seq); err != nil || !reached {
		return err
	}
	missing := a.expected.totals.live - c.due
	if missing == 0 {
		return nil
	}
	parked, err := deadletters.ParkedKeys(ctx, a.conns.work, deadletters.SourceSaga, a.pool)
	if err != nil || missing > 0 && missing <= int64(len(parked)) {
		return err
	}
	a.found.addDifference(Difference{
		Store:    StoreRedis,
		Kind:     KindCount,
		Key:      a.config.Pool.DueKey(),
		Expected: fmt.Sprintf("%d live holds", a.expected.totals.live),
		Found:    fmt.Sprintf("%d members", c.due),
		Seq:      c.seq,
	})
	if !a.full {
		return nil
	}
	step := func(cursor uint64) ([]string, uint64, error) {
		return a.config.Redis.ZScan(ctx, a.config.Pool.DueKey(), cursor, "", scanCount).Result()
	}
	return scanRedis(step, 2, "", func(ids []string) error {
		return a.compareKeys(ctx, nil, untracked(ids, a.expected.holds))
	})
}
