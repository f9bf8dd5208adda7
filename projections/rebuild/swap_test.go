package rebuild

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestSwapWaitsForAReader checks that a swap waits for a transaction that has read a live
// table, and meanwhile names its session in the row, the progress and, once, the log. It
// keeps the new tables and applies the events that arrive, so that the swap succeeds when
// the reader ends.
func TestSwapWaitsForAReader(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	settings := f.postgres.Copy()
	settings.RuntimeParams["application_name"] = "nightly dump"
	reader := testenv.Connect(t, settings)
	tx, err := reader.Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(f.ctx, `SELECT   * FROM held_units`); err != nil {
		t.Fatal(err)
	}
	var log testenv.LogBuffer
	var reported reports
	config := f.rebuildConfig()
	config.Log = slog.New(slog.NewTextHandler(&log, nil))
	config.Report = reported.add
	job, err := Begin(f.ctx, config, heldUnits(1))
	if err != nil {
		t.Fatal(err)
	}
	ended := runJob(f.ctx, job)
	var holder *LockHolder
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		run := f.wantRuns("while it waits", Running)[0]
		holder = run.WaitsFor
		return holder != nil, fmt.Sprintf("%+v", run)
	})
	if got, want := holder.PID, int64(reader.PgConn().PID()); got != want {
		t.Errorf("holder of the lock: got pid %d, want %d", got, want)
	}
	if got, want := holder.Application, "nightly dump"; got != want {
		t.Errorf("holder of the lock: got application %q, want %q", got, want)
	}
	if got, want := holder.Query, "SELECT * FROM held_units"; got != want {
		t.Errorf("holder of the lock: got query %q, want %q", got, want)
	}
	if age := time.Since(holder.Since); age < 0 || age > time.Minute {
		t.Errorf("holder of the lock: got a transaction of %s, want less than a minute", age)
	}

	f.appendEvents(holdEvents("b", 20)...)
	f.project(heldUnits(1))
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		run := f.wantRuns("while it waits and events arrive", Running)[0]
		return run.Done == f.seq, fmt.Sprintf("%d of %d events are in the new tables", run.Done, f.seq)
	})
	if err := tx.Rollback(f.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("after the reader has ended: %v", err)
	}
	run := f.wantRuns("at the end", Done)[0]
	if run.WaitsFor != nil {
		t.Errorf("at the end: got %v as the holder of the lock, want none", run.WaitsFor)
	}
	if !reported.some(func(p Progress) bool { return p.WaitsFor != nil && p.WaitsFor.PID == holder.PID }) {
		t.Error("no progress report names the holder of the lock")
	}
	named := fmt.Sprintf(`pid=%d application_name="nightly dump"`, holder.PID)
	if got := strings.Count(log.String(), named); got != 1 {
		t.Errorf("the log names the holder of the lock %d times, want once:\n%s", got, log.String())
	}
}

// TestLockHolderIsFoundOnLiveTablesOnly checks that a reader of a live table is found,
// and a reader of another table is not.
func TestLockHolderIsFoundOnLiveTablesOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 4)...)
	f.project(heldUnits(1))
	s := f.schemas("held_units")
	find := func() *LockHolder {
		t.Helper()
		holder, err := s.findLockHolder(f.ctx, f.db, heldUnits(1).Tables)
		if err != nil {
			t.Fatal(err)
		}
		return holder
	}
	reader := testenv.Connect(t, f.postgres)
	for table, want := range map[string]bool{"events": false, "held_units": true} {
		tx, err := reader.Begin(f.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(f.ctx, `SELECT FROM `+table); err != nil {
			t.Fatal(err)
		}
		if holder := find(); (holder != nil) != want {
			t.Errorf("with a reader of %s: got %v, want a holder: %t", table, holder, want)
		}
		if err := tx.Rollback(f.ctx); err != nil {
			t.Fatal(err)
		}
		if holder := find(); holder != nil {
			t.Errorf("without a reader: got %v, want no holder", holder)
		}
	}
}

// TestSwapIsRepeatedAfterAConflict makes the first transaction of the swap fail with a
// serialisation failure, and with a deadlock. The second one succeeds.
func TestSwapIsRepeatedAfterAConflict(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"serialisation failure": "40001", "deadlock": "40P01"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEvents(holdEvents("a", 20)...)
			f.project(heldUnits(1))
			// The number of a sequence stays taken when the transaction is rolled back.
			f.exec(`CREATE SEQUENCE attempts`)
			f.exec(`
				CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN
				    IF nextval('attempts') = 1 THEN RAISE 'conflict' USING ERRCODE = '` + code + `'; END IF;
				    RETURN NEW;
				END $$`)
			f.exec(`
				CREATE TRIGGER fail_once BEFORE UPDATE OF exchanged ON rebuilds
				FOR EACH ROW EXECUTE FUNCTION fail_once()`)
			if _, err := f.rebuild(f.rebuildConfig(), heldUnits(1)); err != nil {
				t.Error(err)
			}
			if got := f.queryText(`SELECT last_value FROM attempts`); got != "2" {
				t.Errorf("got %s attempts to swap, want 2", got)
			}
		})
	}
}

// TestRestoreNamesTheHolderOfTheLock checks that a restore-old that ends while it waits
// for a lock names the session that has it.
func TestRestoreNamesTheHolderOfTheLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	if _, err := f.rebuild(f.rebuildConfig(), heldUnits(1)); err != nil {
		t.Fatal(err)
	}
	reader := testenv.Connect(t, f.postgres)
	if _, err := reader.Exec(f.ctx, `BEGIN; SELECT FROM held_units`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := RestoreOld(ctx, f.rebuildConfig(), heldUnits(1))
		ended <- err
	}()
	const lockRequests = `SELECT count(*) FROM pg_locks WHERE relation = 'held_units'::regclass AND NOT granted`
	for _, want := range []string{"1", "0", "1"} {
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			got := f.queryText(lockRequests)
			return got == want, fmt.Sprintf("waiting lock requests: got %s, want %s", got, want)
		})
	}
	cancel()
	want := fmt.Sprintf("pid %d ", reader.PgConn().PID())
	if err := <-ended; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
	held, err := worker.LeaseHeld(f.ctx, f.db, leaseName)
	if err != nil {
		t.Fatal(err)
	}
	if held {
		t.Error("the lease is still held")
	}
}

// reports collects the progress reports of a rebuild; it may be used concurrently.
type reports struct {
	mu   sync.Mutex
	list []Progress
}

func (r *reports) add(p Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, p)
}

// some reports whether a report fulfils the condition.
func (r *reports) some(condition func(Progress) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.list {
		if condition(p) {
			return true
		}
	}
	return false
}
