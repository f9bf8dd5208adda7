package rebuild

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

func TestMain(m *testing.M) {
	worker.AbsenceMax = 10 * time.Second
	testenv.Main(m)
}

// fixture is a journal and live read tables in a schema of their own.
type fixture struct {
	t        *testing.T
	ctx      context.Context
	postgres *pgx.ConnConfig
	db       *pgx.Conn

	mu  sync.Mutex // guards seq, and db while appendInBackground runs
	seq int64      // of the newest event in the journal
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	postgres := testenv.ParseURL(t, testenv.Schema(t))
	f := &fixture{
		t:        t,
		ctx:      ctx,
		postgres: postgres,
		db:       testenv.Connect(t, postgres),
	}
	if err := projections.CreateTables(ctx, f.db, projections.BuiltIn()...); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(f.ctx, sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// queryText returns the single value of a query as text, and "" if the query returns no
// row.
func (f *fixture) queryText(sql string, args ...any) (text string) {
	f.t.Helper()
	if err := f.db.QueryRow(f.ctx, `SELECT coalesce((`+sql+`)::text, '')`, args...).Scan(&text); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// appendEvents appends events to the journal, with the current time.
func (f *fixture) appendEvents(list ...events.Event) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appendOn(f.db, list...)
}

func (f *fixture) appendOn(db *pgx.Conn, list ...events.Event) {
	var sql pgx.Batch
	for _, event := range list {
		payload, err := json.Marshal(event)
		if err != nil {
			f.t.Fatal(err)
		}
		f.seq++
		sql.Queue(`
			INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
			SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', now() FROM (SELECT $3::jsonb) AS given (p)`,
			f.seq, string(event.Type()), payload)
	}
	sql.Queue(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1) ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, f.seq)
	sql.Queue(`SELECT pg_notify('stockstream_journal', 'main')`)
	if err := db.SendBatch(f.ctx, &sql).Close(); err != nil && f.ctx.Err() == nil {
		f.t.Errorf("append to the journal: %v", err)
	}
}

// appendInBackground appends the events of four holds every few milliseconds until stop
// is called.
func (f *fixture) appendInBackground() (stop func()) {
	conn := testenv.Connect(f.t, f.postgres)
	stopped := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stopped:
				return
			case <-time.After(2 * time.Millisecond):
			}
			f.mu.Lock()
			f.appendOn(conn, holdEvents(fmt.Sprint("live", i), 4)...)
			f.mu.Unlock()
		}
	})
	return sync.OnceFunc(func() {
		close(stopped)
		done.Wait()
	})
}

// holdEvents returns a delivery of n shirts and the events of n holds. Of every four
// holds, the first is confirmed, the second expires, and the others stay open.
func holdEvents(prefix string, n int) (list []events.Event) {
	list = append(list, &events.StockAdjusted{SKU: "shirt", Delta: int64(n), Reason: "delivery"})
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		list = append(list, created(id, 1))
		switch i % 4 {
		case 0:
			list = append(list, confirmed(id, 1))
		case 1:
			list = append(list, &events.HoldCancelled{
				HoldID: id,
				SKU:    "shirt",
				Qty:    1,
				UserID: "ann",
				Reason: events.ReasonExpired,
			})
		}
	}
	return list
}

func created(hold string, qty int64) events.Event {
	return &events.HoldCreated{
		HoldID:         hold,
		SKU:            "shirt",
		Qty:            qty,
		UserID:         "ann",
		TTLMs:          60_000,
		IdempotencyKey: "k-" + hold,
	}
}

func confirmed(hold string, qty int64) events.Event {
	return &events.HoldConfirmed{
		HoldID:     hold,
		SKU:        "shirt",
		Qty:        qty,
		UserID:     "ann",
		PaymentRef: "pay-" + hold,
	}
}

// runWorkers runs the live workers of projections until stop is called.
func (f *fixture) runWorkers(list ...projections.Projection) (workers []*worker.Worker, stop func()) {
	f.t.Helper()
	config := projections.Config{
		Postgres: f.postgres,
		Pool:     events.MainPool,
		Log:      slog.New(slog.DiscardHandler),
	}
	stop = testenv.RunRouter(f.t, func(router *message.Router) {
		workers = projections.AddTo(router, config, list...)
	})
	return workers, stop
}

// awaitLevel waits until the live checkpoints of projections have reached the end of the
// journal.
func (f *fixture) awaitLevel(list ...projections.Projection) {
	f.t.Helper()
	for _, projection := range list {
		testenv.Eventually(f.t, 20*time.Second, func() (bool, string) {
			seq, err := worker.ReadCheckpoint(f.ctx, f.db, projection.Name, "main")
			return seq == f.seq, fmt.Sprintf("%s is at %d of %d (%v)", projection.Name, seq, f.seq, err)
		})
	}
}

// awaitLeaseLost waits until Postgres has ended the lease of a rebuild that does not run.
func (f *fixture) awaitLeaseLost() {
	f.t.Helper()
	testenv.Eventually(f.t, 3*worker.AbsenceMax, func() (bool, string) {
		held, err := worker.LeaseHeld(f.ctx, f.db, leaseName)
		return !held && err == nil, fmt.Sprintf("lease held: %t (%v)", held, err)
	})
}

// project runs the live workers of projections until they reach the end of the journal.
func (f *fixture) project(list ...projections.Projection) {
	f.t.Helper()
	_, stop := f.runWorkers(list...)
	f.awaitLevel(list...)
	stop()
}

func (f *fixture) rebuildConfig() Config {
	return Config{
		Postgres: f.postgres,
		Pool:     events.MainPool,
		Watched:  projections.BuiltIn(),
		Log:      slog.New(slog.DiscardHandler),
	}
}

// rebuild begins a rebuild and runs it to its end.
func (f *fixture) rebuild(config Config, list ...projections.Projection) ([]Result, error) {
	f.t.Helper()
	job, err := Begin(f.ctx, config, list...)
	if err != nil {
		return nil, err
	}
	return job.Run(f.ctx)
}

// tableText returns the rows of a table as sorted lines of text.
func (f *fixture) tableText(schema, table string) string {
	f.t.Helper()
	return f.queryText(`SELECT string_agg(r::text, E'\n' ORDER BY r::text COLLATE "C") FROM ` + pgx.Identifier{schema,
		table}.Sanitize() + ` AS r`)
}

func (f *fixture) liveSchema() string { return f.queryText(`SELECT current_schema()`) }

func (f *fixture) schemas(projection string) schemas {
	f.t.Helper()
	s, err := findSchemas(f.ctx, f.db, projection)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// wantNoShadows checks that no shadow schema of projections is left.
func (f *fixture) wantNoShadows(list ...projections.Projection) {
	f.t.Helper()
	for _, projection := range list {
		exists, err := schemaExists(f.ctx, f.db, f.schemas(projection.Name).shadow)
		if err != nil {
			f.t.Errorf("look for the shadow schema of %s: %v", projection.Name, err)
		}
		if exists {
			f.t.Errorf("the shadow schema of %s is left behind", projection.Name)
		}
	}
}

// wantRuns checks that runs are recorded in the given states, newest first, and returns
// them.
func (f *fixture) wantRuns(when string, states ...State) []RunRecord {
	f.t.Helper()
	runs, err := List(f.ctx, f.db, 10)
	if err != nil {
		f.t.Fatal(err)
	}
	got := make([]State, len(runs))
	for i, r := range runs {
		got[i] = r.State
	}
	if !slices.Equal(got, states) {
		f.t.Fatalf("runs %s: got states %v, want %v: %+v", when, got, states, runs)
	}
	return runs
}
