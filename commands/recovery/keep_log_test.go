package recovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// awaitJournaledSeq waits until the journal ends at a seq, whatever Redis has.
func (f *fixture) awaitJournaledSeq(seq int64) {
	f.T.Helper()
	conn := testenv.Connect(f.T, f.Postgres)
	testenv.Eventually(f.T, 20*time.Second, func() (bool, string) {
		got, err := worker.ReadCheckpoint(f.Ctx, conn, journal.CheckpointName, f.Pool.Name())
		return err == nil && got == seq, fmt.Sprintf("the journal is at seq %d, want %d (%v)", got, seq, err)
	})
}

// TestLogIsNotKeptIfTheJournalGrew restarts a Redis and compares it with the journal. The
// journal's worker, which had an event in hand, then appends it. The comparison is too
// old to keep the log by: the event may be one that Redis lost. The log must stay in its
// epoch, and must not be sold from, until it was compared again.
func TestLogIsNotKeptIfTheJournalGrew(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *fixture, hold string){
		"by an event that Redis has":  func(*fixture, string) {},
		"by an event that Redis lost": (*fixture).loseHold,
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, slow, hold := newFixtureWithBatchInHand(t)
			lose(f, hold)
			f.restart()
			lease, err := worker.AcquireLease(f.Ctx, f.Postgres, f.recovery.leaseName())
			must(t, err)
			defer lease.Release()
			p := f.newProcess()
			c, divergence, err := p.recovery.compare(f.Ctx, lease.Conn)
			must(t, err)
			if divergence != divergenceServer {
				t.Fatalf("compare: got %d, want %d", divergence, divergenceServer)
			}
			slow.unblock()
			f.awaitJournaledSeq(2)

			wantError(t, "keep the log", p.recovery.keepLog(f.Ctx, lease, c), errChanged)
			if got := f.Operator.HGet(f.Ctx, "inventory.meta", "epoch").Val(); got != "1" {
				t.Errorf("the log: got epoch %s, want 1 as before", got)
			}
			p.Gate().Open()
			reserve := errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1)))
			wantError(t, "reserve", reserve, commands.ErrOtherServer)

			must(t, p.recovery.reconcile(f.Ctx, lease))
			p.Gate().Open() // a restore closed it
			must(t, errorOf(p.Confirm(f.Ctx, commands.Confirm{HoldID: hold, PaymentRef: "p"})))
			f.WantStock(t, "shirt", 7)
			f.AwaitJournaled()
		})
	}
}
