package projections

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestTransientErrorParksNoEvent checks that after an error that can pass, the worker
// starts again at the checkpoint.
func TestTransientErrorParksNoEvent(t *testing.T) {
	t.Parallel()
	for name, transient := range map[string]error{
		"deadlock":          &pgconn.PgError{Code: "40P01"},
		"shutdown":          &pgconn.PgError{Code: "57P01"},
		"disk full":         &pgconn.PgError{Code: "53100"},
		"missing table":     &pgconn.PgError{Code: "42P01"},
		"cancelled":         fmt.Errorf("apply: %w", context.Canceled),
		"deadline exceeded": context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.journal(created("a", 1), created("b", 1))
			var calls atomic.Int64
			projection := f.notes(func(Event) error {
				if calls.Add(1) <= 2 {
					return transient
				}
				return nil
			})
			f.run(0, projection)
			f.await(projection)
			f.wantParked("notes")
			f.wantRows("notes", "(1,a)\n(2,b)")
		})
	}
}

// TestKilledConnectionsApplyEachEventOnce terminates the worker's session five times
// while it works through a backlog.
func TestKilledConnectionsApplyEachEventOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 60 {
		f.journal(created(fmt.Sprint("h", i), 1))
	}
	var pid atomic.Int64 // of the session that applied the last batch; 0 until it has applied one
	projection := f.notes(neverFails)
	apply := projection.Apply
	projection.Apply = func(ctx context.Context, tx pgx.Tx, batch []Event) error {
		pid.Store(int64(tx.Conn().PgConn().PID()))
		return apply(ctx, tx, batch)
	}
	f.run(2, projection)
	for range 5 {
		if victim := pid.Swap(0); victim != 0 {
			f.exec(`SELECT pg_terminate_backend($1)`, victim)
		}
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			seq, err := worker.ReadCheckpoint(f.ctx, f.db, "notes", "main")
			atEnd := err == nil && seq == f.seq
			return pid.Load() != 0 || atEnd, "no event is applied"
		})
	}
	f.await(projection)
	if got := strings.Count(f.rows("notes"), "("); got != 60 {
		t.Errorf("got %d events applied, want 60", got)
	}
	f.wantParked("notes")
}

// TestAddedProjectionCatchesUp adds a projection to a journal with history, while the
// other projections run. It creates its table and applies the journal from the first
// event.
func TestAddedProjectionCatchesUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	sell := func(count int) {
		for i := range count {
			hold := fmt.Sprint("hold-", f.seq, "-", i)
			f.journal(adjusted(2), created(hold, 1), confirmed(hold, 1))
		}
	}
	sell(100)
	before := []Projection{Holds(), Orders(), StockLevels()}
	_, stop := f.run(7, before...)
	f.await(before...)
	stop()
	f.exec(`DROP TABLE IF EXISTS sku_hours`) // a build without the projection would not have created it
	f.exec(`DELETE FROM checkpoints WHERE projection = 'sku_hours'`)
	f.run(7, append(before, SKUHours())...)
	sell(50)
	f.await(append(before, SKUHours())...)
	var reserved, sold int64
	const query = `SELECT sum(reserved)::bigint, sum(sold)::bigint FROM sku_hours`
	if err := f.db.QueryRow(f.ctx, query).Scan(&reserved, &sold); err != nil {
		t.Fatal(err)
	}
	if reserved != 150 {
		t.Errorf("got %d units reserved, want 150: 100 of the history and 50 since", reserved)
	}
	if sold != 150 {
		t.Errorf("got %d units sold, want 150: 100 of the history and 50 since", sold)
	}
	f.wantParked("sku_hours")
}
