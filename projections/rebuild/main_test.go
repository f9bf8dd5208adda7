package rebuild

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a journal and live read tables in a schema of their own.
type fixture struct {
	t        *testing.T
	ctx      context.Context
	postgres *pgx.ConnConfig
	db       *pgx.Conn

	mu  sync.Mutex // guards db and seq where a seller is at work
	seq int64
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	config := testenv.ParseURL(t, testenv.Schema(t))
	p := &fixture{t: t, ctx: ctx, postgres: config, db: testenv.Connect(t, config)}
	if err := projections.CreateTables(ctx, p.db, projections.BuiltIn()...); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *fixture) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.db.Exec(p.ctx, sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

// queryText returns what a query of one value finds.
func (p *fixture) queryText(sql string, args ...any) (value string) {
	p.t.Helper()
	if err := p.db.QueryRow(p.ctx, `SELECT coalesce((`+sql+`)::text, '')`, args...).Scan(&value); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// journal appends events, decided now.
func (p *fixture) journal(list ...events.Event) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.append(p.db, list...)
}

func (p *fixture) append(db *pgx.Conn, list ...events.Event) {
	var sql pgx.Batch
	for _, event := range list {
		payload, err := json.Marshal(event)
		if err != nil {
			p.t.Fatal(err)
		}
		p.seq++
		sql.Queue(`
			INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
			SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', now() FROM (SELECT $3::jsonb) AS given (p)`,
			p.seq, string(event.Type()), payload)
	}
	sql.Queue(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1) ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, p.seq)
	sql.Queue(`SELECT pg_notify('stockstream_journal', 'main')`)
	if err := db.SendBatch(p.ctx, &sql).Close(); err != nil && p.ctx.Err() == nil {
		p.t.Errorf("append to the journal: %v", err)
	}
}

// appendInBackground appends the lives of holds until stop is called, in batches of a dozen events.
func (p *fixture) appendInBackground() (stop func()) {
	conn := testenv.Connect(p.t, p.postgres)
	ending := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-ending:
				return
			case <-time.After(2 * time.Millisecond):
			}
			p.mu.Lock()
			p.append(conn, holdEvents(fmt.Sprint("live", i), 4)...)
			p.mu.Unlock()
		}
	})
	return sync.OnceFunc(func() {
		close(ending)
		done.Wait()
	})
}

// holdEvents returns the events of n holds that end in each way in turn, or live on.
func holdEvents(prefix string, n int) (list []events.Event) {
	list = append(list, &events.StockAdjusted{SKU: "shirt", Delta: int64(n), Reason: "delivery"})
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		list = append(list, created(id, 1))
		switch i % 4 {
		case 0:
			list = append(list, confirmed(id, 1))
		case 1:
			list = append(list, &events.HoldCancelled{HoldID: id, SKU: "shirt", Qty: 1, UserID: "ann", Reason: events.ReasonExpired})
		}
	}
	return list
}

func created(hold string, qty int64) events.Event {
	return &events.HoldCreated{HoldID: hold, SKU: "shirt", Qty: qty, UserID: "ann", TTLMs: 60_000, IdempotencyKey: "k-" + hold}
}

func confirmed(hold string, qty int64) events.Event {
	return &events.HoldConfirmed{HoldID: hold, SKU: "shirt", Qty: qty, UserID: "ann", PaymentRef: "pay-" + hold}
}

// runWorkers runs the live lines of projections until the returned function is called.
func (p *fixture) runWorkers(list ...projections.Projection) (lines []*events.Line, stop func()) {
	p.t.Helper()
	stop = testenv.RunRouter(p.t, func(router *message.Router) {
		lines = projections.AddTo(router, projections.Config{Postgres: p.postgres, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}, list...)
	})
	return lines, stop
}

// awaitLevel waits until the live projections have come to the end of the journal.
func (p *fixture) awaitLevel(list ...projections.Projection) {
	p.t.Helper()
	for _, projection := range list {
		testenv.Eventually(p.t, 20*time.Second, func() (bool, string) {
			seq, err := events.ReadCheckpoint(p.ctx, p.db, projection.Name, "main")
			return seq == p.seq, fmt.Sprintf("%s is at %d of %d (%v)", projection.Name, seq, p.seq, err)
		})
	}
}

// project runs projections until they are level with the journal.
func (p *fixture) project(list ...projections.Projection) {
	p.t.Helper()
	_, stop := p.runWorkers(list...)
	p.awaitLevel(list...)
	stop()
}

// rebuildConfig is what a test rebuilds with.
func (p *fixture) rebuildConfig() Config {
	return Config{Postgres: p.postgres, Pool: events.MainPool, Watched: projections.BuiltIn(), Log: slog.New(slog.DiscardHandler)}
}

// rebuild begins a rebuild and runs it to its end.
func (p *fixture) rebuild(config Config, list ...projections.Projection) ([]Result, error) {
	p.t.Helper()
	job, err := Begin(p.ctx, config, list...)
	if err != nil {
		return nil, err
	}
	return job.Run(p.ctx)
}

// tableText returns a table as text, ordered.
func (p *fixture) tableText(schema, table string) string {
	p.t.Helper()
	return p.queryText(`SELECT string_agg(r::text, E'\n' ORDER BY r::text COLLATE "C") FROM ` + pgx.Identifier{schema, table}.Sanitize() + ` AS r`)
}

func (p *fixture) liveSchema() string { return p.queryText(`SELECT current_schema()`) }

func (p *fixture) schemas(projection string) schemas {
	p.t.Helper()
	h, err := findSchemas(p.ctx, p.db, projection)
	if err != nil {
		p.t.Fatal(err)
	}
	return h
}

// wantNoShadows fails where a rebuild left something that is in nobody's place.
func (p *fixture) wantNoShadows(list ...projections.Projection) {
	p.t.Helper()
	for _, projection := range list {
		if exists, err := schemaExists(p.ctx, p.db, p.schemas(projection.Name).shadow); exists || err != nil {
			p.t.Errorf("the shadow tables of %s are left (%v)", projection.Name, err)
		}
	}
}
