package rebuild

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// sessionsOfRebuild is how many sessions a rebuild of one projection opens: of the lease,
// the shadow, the live checkpoints, two readers, the watch, and the comparison.
const sessionsOfRebuild = 7

// requireFreed checks that a rebuild that failed has left neither its lease nor a shadow
// schema, and that cancel finds nothing to end.
func (f *fixture) requireFreed(when string) {
	f.t.Helper()
	held, err := worker.LeaseHeld(f.ctx, f.db, leaseName)
	if err != nil {
		f.t.Fatal(err)
	}
	if held {
		f.t.Fatalf("%s: the lease is still held", when)
	}
	f.wantNoShadows(heldUnits(1))
	if _, err := Cancel(f.ctx, f.db); !errors.Is(err, ErrNotRunning) {
		f.t.Errorf("%s: cancel: got %v, want ErrNotRunning", when, err)
	}
}

// TestRefusedSessionFailsTheRebuild lets the role open one session more each time. Each
// rebuild fails with Postgres's reason and frees everything, whichever of its sessions is
// refused.
func TestRefusedSessionFailsTheRebuild(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	role := f.liveSchema() + "_limited"
	database := f.queryText(`SELECT quote_ident(current_database())`)
	asSuperuser(t, `CREATE ROLE `+role+` LOGIN; GRANT `+role+` TO app`)
	t.Cleanup(func() { asSuperuser(t, `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role) })
	f.exec(`GRANT CREATE ON DATABASE ` + database + ` TO ` + role)
	f.exec(`GRANT ALL ON SCHEMA ` + f.liveSchema() + ` TO ` + role)
	f.exec(`GRANT ALL ON ALL TABLES IN SCHEMA ` + f.liveSchema() + ` TO ` + role)
	f.exec(`ALTER TABLE held_units OWNER TO ` + role)
	config := f.rebuildConfig()
	config.Postgres = testenv.ParseURL(t, testenv.Superuser(t)) // the socket, where every role may connect
	config.Postgres.RuntimeParams = f.postgres.RuntimeParams
	config.Postgres.User = role
	const tooManyConnections = "53300"
	for limit := range sessionsOfRebuild {
		asSuperuser(t, fmt.Sprintf(`ALTER ROLE %s CONNECTION LIMIT %d`, role, limit))
		_, err := f.rebuild(config, heldUnits(1))
		if !postgres.IsCode(err, tooManyConnections) {
			t.Errorf("with %d sessions: got %v, want SQLSTATE %s", limit, err, tooManyConnections)
		}
		f.requireFreed(fmt.Sprintf("with %d sessions", limit))
	}
	asSuperuser(t, `ALTER ROLE `+role+` CONNECTION LIMIT -1`)
	if _, err := f.rebuild(config, heldUnits(1)); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

// TestPanicFailsTheRebuild makes each session of a background rebuild panic in turn, as
// it is opened. The lease is freed every time, and a run that had begun is recorded as
// failed with the panic as its error.
func TestPanicFailsTheRebuild(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	const sessionsOfBegin = 2
	for panicking := range int64(sessionsOfRebuild) {
		when := fmt.Sprintf("a panic in session %d", panicking)
		config := f.rebuildConfig()
		config.Postgres = f.postgres.Copy()
		config.Postgres.DialFunc = panicOnDial(f.postgres.DialFunc, panicking)
		b := NewBackground(config)
		id, panicked := startCatchingPanic(f.ctx, b)
		b.done.Wait()
		f.requireFreed(when)
		if inBegin := panicking < sessionsOfBegin; panicked != inBegin {
			t.Errorf("%s: Start panicked: %t, want %t", when, panicked, inBegin)
		}
		if panicked {
			continue
		}
		runs, err := List(f.ctx, f.db, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) != 1 || runs[0].ID != id || runs[0].State != Failed {
			t.Fatalf("%s: got runs %+v, want run %d to have failed", when, runs, id)
		}
		if !strings.Contains(runs[0].Error, "panic: dial") {
			t.Errorf("%s: got error %q, want the panic in it", when, runs[0].Error)
		}
	}
	if _, err := f.rebuild(f.rebuildConfig(), heldUnits(1)); err != nil {
		t.Errorf("without a panic: %v", err)
	}
}

// panicOnDial returns a DialFunc that panics on the n-th call, counted from 0.
func panicOnDial(dial pgconn.DialFunc, n int64) pgconn.DialFunc {
	var calls atomic.Int64
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if calls.Add(1)-1 == n {
			panic("dial")
		}
		return dial(ctx, network, addr)
	}
}

// startCatchingPanic starts a rebuild of heldUnits as the HTTP server does, which
// survives a panic of its handler.
func startCatchingPanic(ctx context.Context, b *Background) (id int64, panicked bool) {
	defer func() { panicked = recover() != nil }()
	id, _ = b.Start(ctx, false, heldUnits(1))
	return id, false
}

// TestCancelledRebuildNeverSwaps cancels a rebuild right before its swap, as if its
// process had been stopped since and had not noticed. The swap fails with ErrCancelled
// and changes nothing.
func TestCancelledRebuildNeverSwaps(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	job, err := Begin(f.ctx, f.rebuildConfig(), heldUnits(1))
	if err != nil {
		t.Fatal(err)
	}
	defer job.close(f.ctx)
	if _, err := job.prepare(f.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := Cancel(f.ctx, f.db); err != nil {
		t.Fatal(err)
	}
	if _, err := job.swapAll(f.ctx); !errors.Is(err, ErrCancelled) {
		t.Errorf("swap after the cancel: got %v, want ErrCancelled", err)
	}
	if f.queryText(`SELECT to_regnamespace($1)`, f.schemas("held_units").old) != "" {
		t.Error("a cancelled rebuild swapped its tables in")
	}
}

// TestAbandonedRebuildIsTakenOver begins a rebuild and ends the session of its lease, as
// Postgres does for a process that stands still. The rest of its sessions stay open, one
// of them with a lock on a new table. Another rebuild, and cancel, end those sessions.
// When the first process goes on, it fails with ErrLeaseLost and disturbs nothing.
func TestAbandonedRebuildIsTakenOver(t *testing.T) {
	t.Parallel()
	begin := func(f *fixture) *Job {
		f.appendEvents(holdEvents("a", 20)...)
		f.project(heldUnits(1))
		job, err := Begin(f.ctx, f.rebuildConfig(), heldUnits(1))
		if err != nil {
			f.t.Fatal(err)
		}
		const lock = `BEGIN; INSERT INTO held_units VALUES ('x', 1)`
		if _, err := job.shadows[0].conn.Exec(f.ctx, lock); err != nil {
			f.t.Fatal(err)
		}
		f.exec(`SELECT pg_terminate_backend($1, 5000)`, int64(job.lease.Conn.PgConn().PID()))
		f.wantRuns("without the lease", Interrupted)
		return job
	}
	requireEnded := func(f *fixture, abandoned *Job) {
		if _, err := abandoned.shadows[0].conn.Exec(f.ctx, `COMMIT`); err == nil {
			f.t.Error("the session of the shadow still works")
		}
	}
	t.Run("by a rebuild", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		abandoned := begin(f)
		job, err := Begin(f.ctx, f.rebuildConfig(), heldUnits(1))
		if err != nil {
			t.Fatal(err)
		}
		requireEnded(f, abandoned)
		if _, err := abandoned.Run(f.ctx); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("the abandoned rebuild: got %v, want ErrLeaseLost", err)
		}
		if _, err := job.Run(f.ctx); err != nil {
			t.Errorf("the rebuild that took over: %v", err)
		}
		f.wantRuns("at the end", Done, Interrupted)
	})
	t.Run("by cancel", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		abandoned := begin(f)
		id, err := Cancel(f.ctx, f.db)
		if err != nil {
			t.Fatal(err)
		}
		if id != abandoned.ID() {
			t.Errorf("cancel: got run %d, want %d", id, abandoned.ID())
		}
		requireEnded(f, abandoned)
		f.wantRuns("after the cancel", Cancelled)
		if _, err := abandoned.Run(f.ctx); !errors.Is(err, ErrLeaseLost) {
			t.Errorf("the abandoned rebuild: got %v, want ErrLeaseLost", err)
		}
		f.wantRuns("at the end", Cancelled)
	})
	t.Run("by drop-old", func(t *testing.T) {
		t.Parallel()
		f := newFixture(t)
		abandoned := begin(f)
		err := DropOld(f.ctx, f.rebuildConfig(), heldUnits(1))
		if !errors.Is(err, ErrNoOldTables) {
			t.Errorf("drop-old: got %v, want ErrNoOldTables", err)
		}
		requireEnded(f, abandoned)
		f.wantNoShadows(heldUnits(1))
		abandoned.close(f.ctx)
	})
}

// TestIdleRebuildLosesItsLease begins a rebuild and does not run it, as if its process
// had been stopped. Postgres ends the lease within worker.AbsenceMax. A rebuild that runs
// keeps its lease for longer, although it waits.
func TestIdleRebuildLosesItsLease(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	idle, err := Begin(f.ctx, f.rebuildConfig(), heldUnits(1))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.close(f.ctx)
	f.awaitLeaseLost()

	release := make(chan struct{})
	reached := make(chan struct{})
	job, err := Begin(f.ctx, f.rebuildConfig(), blocked(reached, release))
	if err != nil {
		t.Fatal(err)
	}
	ended := runJob(f.ctx, job)
	<-reached
	second, err := Begin(f.ctx, f.rebuildConfig(), projections.Orders())
	if !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("a second rebuild: got %v and %v, want ErrRebuildRunning", second, err)
	}
	other := newFixture(t)
	idle, err = Begin(other.ctx, other.rebuildConfig(), projections.Orders())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.close(other.ctx)
	other.awaitLeaseLost() // it became idle after job, so job has waited for longer
	close(release)
	if err := <-ended; err != nil {
		t.Errorf("a rebuild that waited: %v", err)
	}
}
