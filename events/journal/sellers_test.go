package journal

import (
	"errors"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestSellerOrRaisedEpochIsSeen checks both orders of a seller's report and a raised
// epoch: the second one always sees the first, also if the first is not committed yet.
func TestSellerOrRaisedEpochIsSeen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := RecordPool(f.ctx, f.db, "main", 1); err != nil {
		t.Fatal(err)
	}
	report := func(server string, want int64) {
		t.Helper()
		epoch, err := ReportSeller(f.ctx, f.db, "main", "web-1", server)
		if err != nil {
			t.Fatal(err)
		}
		if epoch != want {
			t.Errorf("report a seller on %s: got epoch %d, want %d", server, epoch, want)
		}
	}
	report("a", 1)
	_, _, err := RaiseEpoch(f.ctx, f.db, "main", Raise{Above: 1, Server: "b"})
	if !errors.Is(err, ErrOtherSeller) {
		t.Errorf("raise for b beside a seller on a: got %v, want ErrOtherSeller", err)
	}
	sellers, err := ReadSellers(f.ctx, f.db, "main")
	if err != nil {
		t.Fatal(err)
	}
	report("a", 1) // so the report that was read is no longer the last
	_, _, err = RaiseEpoch(f.ctx, f.db, "main", Raise{Above: 1, Server: "b", Silent: sellers})
	if !errors.Is(err, ErrOtherSeller) {
		t.Errorf("raise for b beside a seller that reported again: got %v, want ErrOtherSeller", err)
	}
	f.raiseEpochFor("a", 2)
	report("a", 2)
	if err := WithdrawSeller(f.ctx, f.db, "main", "web-1"); err != nil {
		t.Fatal(err)
	}
	f.raiseEpochFor("b", 3)
	report("a", 3)
}

// TestReportWaitsForAnOpenRaise checks that a report that comes while an epoch is being
// raised returns the raised epoch.
func TestReportWaitsForAnOpenRaise(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := RecordPool(f.ctx, f.db, "main", 1); err != nil {
		t.Fatal(err)
	}
	tx, err := f.connect().Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(f.ctx, `UPDATE pools SET epoch = 2`); err != nil {
		t.Fatal(err)
	}
	reporter := f.connect()
	reported := make(chan int64)
	go func() {
		epoch, err := ReportSeller(f.ctx, reporter, "main", "web-1", "a")
		if err != nil {
			t.Error(err)
		}
		reported <- epoch
	}()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		var blocked bool
		err := f.db.QueryRow(f.ctx, isBlocked, reporter.PgConn().PID()).Scan(&blocked)
		return err == nil && blocked, "the report does not wait for the raise"
	})
	if err := tx.Commit(f.ctx); err != nil {
		t.Fatal(err)
	}
	if epoch := <-reported; epoch != 2 {
		t.Errorf("report: got epoch %d, want 2", epoch)
	}
}

// raiseEpochFor raises the epoch for a server, and checks the result.
func (f *fixture) raiseEpochFor(server string, want int64) {
	f.t.Helper()
	epoch, _, err := RaiseEpoch(f.ctx, f.db, "main", Raise{Above: 1, Server: server})
	if err != nil {
		f.t.Errorf("raise the epoch for %s: %v", server, err)
	}
	if epoch != want {
		f.t.Errorf("raise the epoch for %s: got %d, want %d", server, epoch, want)
	}
}
