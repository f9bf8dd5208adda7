package rebuild

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// blocked is a projection whose handler says on a channel that it was called, and waits until a test lets it go on.
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

// startBlockedRebuild starts a rebuild that stands in its handler, and returns its end.
func (p *fixture) startBlockedRebuild(ctx context.Context, config Config, release chan struct{}) (job *Job, ended <-chan error) {
	p.t.Helper()
	p.journal(holdEvents("a", 20)...)
	p.project(heldUnits(1))
	reached := make(chan struct{})
	job, err := Begin(ctx, config, blocked(reached, release))
	if err != nil {
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := job.Run(ctx)
		done <- err
	}()
	<-reached
	return job, done
}

// TestCancel ends a rebuild from another session, and by its context. Nothing that serves is changed, nothing is left,
// and the next one may begin.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(p *fixture, job *Job, stop func()){
		"by request": func(p *fixture, job *Job, _ func()) {
			if id, err := Cancel(p.ctx, p.db); err != nil || id != job.ID() {
				p.t.Errorf("cancel: got %d (%v), want %d", id, err, job.ID())
			}
		},
		"by its context": func(_ *fixture, _ *Job, stop func()) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFixture(t)
			ctx, stop := context.WithCancel(p.ctx)
			defer stop()
			job, ended := p.startBlockedRebuild(ctx, p.rebuildConfig(), nil)
			before := p.tableText(p.liveSchema(), "counting")
			end(p, job, stop)
			if err := <-ended; !errors.Is(err, ErrCancelled) {
				t.Errorf("got %v, want it cancelled", err)
			}
			p.wantNoShadows(heldUnits(1))
			if p.tableText(p.liveSchema(), "counting") != before {
				t.Error("the live table was changed")
			}
			if runs, err := List(p.ctx, p.db, 1); err != nil || runs[0].State != Cancelled {
				t.Errorf("runs: got %+v (%v), want it cancelled", runs, err)
			}
			if _, err := Cancel(p.ctx, p.db); !errors.Is(err, ErrNotRunning) {
				t.Errorf("cancel again: got %v, want ErrNotRunning", err)
			}
			if _, err := p.rebuild(p.rebuildConfig(), heldUnits(1)); err != nil {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// TestLostLease holds that a runner whose session was cut cannot put anything in place.
func TestLostLease(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	release := make(chan struct{})
	job, ended := p.startBlockedRebuild(p.ctx, p.rebuildConfig(), release)
	before := p.tableText(p.liveSchema(), "counting")
	p.exec(`SELECT pg_terminate_backend($1)`, int64(job.lease.Conn.PgConn().PID()))
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		held, err := events.LeaseHeld(p.ctx, p.db, leaseName)
		return !held && err == nil, fmt.Sprint("the lease is held: ", err)
	})
	if runs, err := List(p.ctx, p.db, 1); err != nil || runs[0].State != Interrupted {
		t.Errorf("runs: got %+v (%v), want it interrupted", runs, err)
	}
	close(release)
	if err := <-ended; err == nil {
		t.Error("a rebuild without its lease came to its end")
	}
	if p.tableText(p.liveSchema(), "counting") != before || p.queryText(`SELECT to_regnamespace($1)`, p.schemas("counting").old) != "" {
		t.Error("it put something in place")
	}
	if _, err := p.rebuild(p.rebuildConfig(), heldUnits(1)); err != nil {
		t.Errorf("the next one, over what was left: %v", err)
	}
	p.wantNoShadows(heldUnits(1))
}

// TestReaderInTheWay holds that a reader who stays on a table delays the exchange and nothing else: other readers do
// not queue up behind it for long.
func TestReaderInTheWay(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 20)...)
	p.project(heldUnits(1))
	reader := testenv.Connect(t, p.postgres)
	tx, err := reader.Begin(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(p.ctx, `SELECT FROM counting`); err != nil {
		t.Fatal(err)
	}
	job, err := Begin(p.ctx, p.rebuildConfig(), heldUnits(1))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := job.Run(p.ctx)
		ended <- err
	}()
	const waiting = `SELECT count(*) FROM pg_locks WHERE relation = 'counting'::regclass AND NOT granted`
	for _, want := range []string{"1", "0", "1"} { // it waits, gives up, and tries again
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			got := p.queryText(waiting)
			return got == want, "waiting for the lock: " + got
		})
	}
	if err := tx.Rollback(p.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestPace holds that a rebuild waits while the live lag is high, goes on when it is low, and goes on anyway in the end.
func TestPace(t *testing.T) {
	t.Parallel()
	waited := func(p *pace, then func()) time.Duration {
		began := time.Now()
		if then != nil {
			time.AfterFunc(50*time.Millisecond, then)
		}
		if err := p.wait(t.Context()); err != nil {
			t.Error(err)
		}
		return time.Since(began)
	}
	p := newPace()
	if took := waited(p, nil); took > pauseMax/2 {
		t.Errorf("without a pause it waited %s", took)
	}
	p.pause(true)
	if took := waited(p, nil); took < pauseMax {
		t.Errorf("in a pause it waited %s, want %s", took, pauseMax)
	}
	if !p.progress().Paused {
		t.Error("the progress does not tell of the pause")
	}
	if took := waited(p, func() { p.pause(false) }); took < 50*time.Millisecond || took > pauseMax {
		t.Errorf("in a pause of 50ms it waited %s", took)
	}
	p.aim(100)
	p.came(50)
	if now := p.progress(); now.Done != 50 || now.Total != 100 || now.Rate <= 0 || now.ETA <= 0 || now.Paused {
		t.Errorf("halfway: got %+v", now)
	}
}

// TestGivesWay holds that the live lag of a line that works slows a rebuild down, and that one which stands still does
// not.
func TestGivesWay(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 20)...)
	p.exec(`UPDATE events SET at = now() - interval '1 minute', recorded_at = now() - interval '1 minute'`)
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 3)`)
	config := p.rebuildConfig()
	config.Watched = []projections.Projection{projections.Holds()}
	lines := liveWorkers{}
	lag := func() time.Duration {
		t.Helper()
		lag, err := lines.lag(p.ctx, p.db, config)
		if err != nil {
			t.Fatal(err)
		}
		return lag
	}
	if got := lag(); got < time.Minute || got > 2*time.Minute {
		t.Errorf("a line that is a minute behind: got %s", got)
	}
	seen := lines["holds"]
	lines["holds"] = workerPosition{seen.checkpoint, seen.since.Add(-2 * stalledAfter)}
	if got := lag(); got != 0 {
		t.Errorf("a line that stands still: got %s, want it passed over", got)
	}
	p.exec(`UPDATE checkpoints SET seq = 4 WHERE projection = 'holds'`)
	if got := lag(); got < time.Minute {
		t.Errorf("a line that moves again: got %s", got)
	}
	p.exec(`UPDATE checkpoints SET seq = $1 WHERE projection = 'holds'`, p.seq)
	if got := lag(); got != 0 {
		t.Errorf("a line that is level: got %s", got)
	}
	p.journal(created("z", 1))
	p.exec(`UPDATE events SET at = now() - interval '3 seconds' WHERE seq = $1`, p.seq)
	p.exec(`UPDATE checkpoints SET seq = $1 WHERE projection = 'holds'`, p.seq)
	if got := lag(); got < 2*time.Second {
		t.Errorf("a journal that took three seconds: got %s", got)
	}
}

// TestBackground holds that a process which ends takes its rebuild with it in good order, and begins no other.
func TestBackground(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 20)...)
	p.project(heldUnits(1))
	b := NewBackground(p.rebuildConfig())
	reached := make(chan struct{})
	request, answered := context.WithCancel(p.ctx)
	id, err := b.Start(request, false, blocked(reached, nil))
	if err != nil {
		t.Fatal(err)
	}
	answered() // the request is over; the rebuild is not
	<-reached
	if runs, err := List(p.ctx, p.db, 1); err != nil || runs[0].ID != id || runs[0].State != Running {
		t.Errorf("runs: got %+v (%v)", runs, err)
	}
	b.Close()
	if runs, err := List(p.ctx, p.db, 1); err != nil || runs[0].State != Cancelled {
		t.Errorf("runs: got %+v (%v), want it cancelled", runs, err)
	}
	p.wantNoShadows(heldUnits(1))
	if _, err := b.Start(p.ctx, false, heldUnits(1)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if runs, err := List(p.ctx, p.db, 1); err != nil || runs[0].State != Cancelled {
		t.Errorf("begun after the end: got %+v (%v), want it cancelled at once", runs, err)
	}
}
