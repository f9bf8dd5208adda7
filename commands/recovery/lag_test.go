package recovery

import (
	"fmt"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/testenv"
)

// awaitLag waits until the gate of p knows how many events are not journaled.
func (f *fixture) awaitLag(p *process, want int64) {
	f.T.Helper()
	testenv.Eventually(f.T, 30*time.Second, func() (bool, string) {
		lag, _ := p.Gate().JournalLag()
		return lag.Events == want, fmt.Sprintf("the lag is %+v, want %d events", lag, want)
	})
}

// TestReservesAreRefusedWhileTheJournalIsTooFarBehind checks that what would grow is
// refused at the limit, that what ends a hold or takes stock away goes on, and that
// reserves are taken again once the journal has caught up.
func TestReservesAreRefusedWhileTheJournalIsTooFarBehind(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.recovery.lagMax = 3
	f.watch(f.process)
	f.awaitReady(f.process)
	f.addStock("shirt", 9)
	first := f.createHold("shirt", 1)
	f.awaitLag(f.process, 2)
	second := f.createHold("shirt", 1)
	f.awaitLag(f.process, 3)

	adjust := func(delta int64) error {
		return errorOf(f.AdjustStock(f.Ctx, commands.AdjustStock{
			SKU:            "shirt",
			Delta:          delta,
			Reason:         "count",
			IdempotencyKey: f.Key(),
		}))
	}
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrJournalBehind)
	wantError(t, "add stock", adjust(1), commands.ErrJournalBehind)
	must(t, adjust(-1))
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: first, PaymentRef: "p"})))
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: second})))
	must(t, f.Ready(f.Ctx))

	f.RunJournal()
	f.awaitLag(f.process, 0)
	f.createHold("shirt", 1)
	must(t, adjust(1))
}

// TestLagIsCountedWithoutPostgres checks that the events that are not journaled are
// counted while Postgres is away, also those that another process decided.
func TestLagIsCountedWithoutPostgres(t *testing.T) {
	t.Parallel()
	f, server := newFixtureWithPostgres(t)
	must(t, f.reconcile(f.process))
	f.addStock("shirt", 9)
	f.JournalEverything()
	watched := f.newProcess()
	watched.recovery.lagMax = 2
	f.watch(watched)
	f.awaitReady(watched)
	must(t, server.Kill())
	f.createHold("shirt", 1)
	f.createHold("shirt", 1)
	f.awaitLag(watched, 2)
	err := errorOf(watched.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve", err, commands.ErrJournalBehind)
}
