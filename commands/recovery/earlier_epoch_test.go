package recovery

import (
	"sync"
	"testing"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestLogOfAnEarlierEpochIsComparedFarBack checks that a Redis whose log is of an earlier
// epoch, and which has thousands of events that the journal lacks, is compared with the
// journal all the same: its log is kept, and is not taken to be a fork.
func TestLogOfAnEarlierEpochIsComparedFarBack(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	var group sync.WaitGroup
	const adders, each = 50, 100
	for range adders {
		group.Go(func() {
			for range each {
				_, err := f.AdjustStock(f.Ctx, commands.AdjustStock{
					SKU:            "shirt",
					Delta:          1,
					Reason:         "delivery",
					IdempotencyKey: f.Key(),
				})
				if err != nil {
					t.Errorf("add stock: %v", err)
				}
			}
		})
	}
	group.Wait()
	conn := testenv.Connect(t, f.Postgres)
	_, err := conn.Exec(f.Ctx, `UPDATE pools SET epoch = epoch + 1`)
	must(t, err)
	must(t, f.reconcile(f.process))
	f.wantHead(t, journal.FirstEpoch+2, 9+adders*each)
}
