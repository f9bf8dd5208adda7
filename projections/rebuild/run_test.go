package rebuild

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// blocked is heldUnits with a handler that sends on reached and then waits for release or
// for the end of its context.
func blocked(reached chan<- struct{}, release <-chan struct{}) projections.Projection {
	p := heldUnits(1)
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		select {
		case reached <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		return apply(ctx, tx, batch)
	}
	return p
}

// startBlockedRebuild starts a rebuild of heldUnits and returns once its handler is
// blocked. The error of the rebuild is sent on ended.
func (f *fixture) startBlockedRebuild(
	ctx context.Context, config Config, release chan struct{},
) (job *Job, ended <-chan error) {
	f.t.Helper()
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	reached := make(chan struct{})
	job, err := Begin(ctx, config, blocked(reached, release))
	if err != nil {
		f.t.Fatal(err)
	}
	ended = runJob(ctx, job)
	<-reached
	return job, ended
}

// runJob runs a job in the background and sends its error on the returned channel.
func runJob(ctx context.Context, job *Job) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := job.Run(ctx)
		ended <- err
	}()
	return ended
}

// TestCancelledRebuildChangesNothing cancels a rebuild from another session and by its
// context. The live table is unchanged, no shadow schema is left, and another rebuild
// works.
func TestCancelledRebuildChangesNothing(t *testing.T) {
	t.Parallel()
	for name, cancel := range map[string]func(f *fixture, job *Job, cancelContext func()){
		"from another session": func(f *fixture, job *Job, _ func()) {
			id, err := Cancel(f.ctx, f.db)
			if err != nil {
				f.t.Errorf("cancel: %v", err)
			}
			if id != job.ID() {
				f.t.Errorf("cancel: got run %d, want %d", id, job.ID())
			}
		},
		"by its context": func(_ *fixture, _ *Job, cancelContext func()) { cancelContext() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			ctx, cancelContext := context.WithCancel(f.ctx)
			defer cancelContext()
			job, ended := f.startBlockedRebuild(ctx, f.rebuildConfig(), nil)
			before := f.tableText(f.liveSchema(), "held_units")
			cancel(f, job, cancelContext)
			if err := <-ended; !errors.Is(err, ErrCancelled) {
				t.Errorf("got %v, want ErrCancelled", err)
			}
			f.wantNoShadows(heldUnits(1))
			if f.tableText(f.liveSchema(), "held_units") != before {
				t.Error("a cancelled rebuild changed the live table")
			}
			f.wantRuns("after the cancel", Cancelled)
			if _, err := Cancel(f.ctx, f.db); !errors.Is(err, ErrNotRunning) {
				t.Errorf("cancel again: got %v, want ErrNotRunning", err)
			}
			if _, err := f.rebuild(f.rebuildConfig(), heldUnits(1)); err != nil {
				t.Errorf("the next rebuild: %v", err)
			}
		})
	}
}

// TestRebuildWithoutLeaseCannotSwap cuts the session of the lease during the replay. The
// run counts as interrupted, the rebuild fails without a swap, and the next rebuild drops
// the shadow schema that was left behind.
func TestRebuildWithoutLeaseCannotSwap(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	release := make(chan struct{})
	job, ended := f.startBlockedRebuild(f.ctx, f.rebuildConfig(), release)
	before := f.tableText(f.liveSchema(), "held_units")
	f.exec(`SELECT pg_terminate_backend($1)`, int64(job.lease.Conn.PgConn().PID()))
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		held, err := worker.LeaseHeld(f.ctx, f.db, leaseName)
		return !held && err == nil, fmt.Sprintf("lease held: %t (%v)", held, err)
	})
	f.wantRuns("without the lease", Interrupted)
	close(release)
	if err := <-ended; err == nil {
		t.Error("a rebuild without its lease succeeded")
	}
	if f.tableText(f.liveSchema(), "held_units") != before {
		t.Error("a rebuild without its lease changed the live table")
	}
	if f.queryText(`SELECT to_regnamespace($1)`, f.schemas("held_units").old) != "" {
		t.Error("a rebuild without its lease made an old schema")
	}
	if _, err := f.rebuild(f.rebuildConfig(), heldUnits(1)); err != nil {
		t.Errorf("the next rebuild: %v", err)
	}
	f.wantNoShadows(heldUnits(1))
}

// TestLongReaderDelaysOnlyTheSwap checks that a transaction which keeps a lock on a live
// table delays the swap, and that the swap gives up its own lock request between its
// attempts, so that other readers do not queue up behind it for long.
func TestLongReaderDelaysOnlyTheSwap(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	reader := testenv.Connect(t, f.postgres)
	tx, err := reader.Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(f.ctx, `SELECT FROM held_units`); err != nil {
		t.Fatal(err)
	}
	job, err := Begin(f.ctx, f.rebuildConfig(), heldUnits(1))
	if err != nil {
		t.Fatal(err)
	}
	ended := runJob(f.ctx, job)
	const lockRequests = `SELECT count(*) FROM pg_locks WHERE relation = 'held_units'::regclass AND NOT granted`
	for _, want := range []string{"1", "0", "1"} { // it waits, gives up, and tries again
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			got := f.queryText(lockRequests)
			return got == want, fmt.Sprintf("waiting lock requests: got %s, want %s", got, want)
		})
	}
	if err := tx.Rollback(f.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after the reader has ended: %v", err)
	}
}
