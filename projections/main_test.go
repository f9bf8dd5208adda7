package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// plant is a journal and read tables in a schema of their own.
type plant struct {
	t      *testing.T
	ctx    context.Context
	config *pgx.ConnConfig
	db     *pgx.Conn
	seq    int64
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	config := testenv.ParseURL(t, testenv.Schema(t))
	config.RuntimeParams["application_name"] = config.RuntimeParams["search_path"] // tells a test's sessions from another's
	p := &plant{t: t, ctx: ctx, config: config, db: testenv.Connect(t, config)}
	if err := CreateTables(ctx, p.db, BuiltIn()...); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *plant) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.db.Exec(p.ctx, sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

var began = time.UnixMilli(1764000000000).UTC()

// journal appends events.
func (p *plant) journal(list ...events.Event) {
	p.t.Helper()
	for _, event := range list {
		payload, err := json.Marshal(event)
		if err != nil {
			p.t.Fatal(err)
		}
		p.journalRaw(event.Type(), string(payload))
	}
}

// journalRaw appends an event with any type and payload.
func (p *plant) journalRaw(eventType events.Type, payload string) {
	p.t.Helper()
	p.seq++
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $4 FROM (SELECT $3::jsonb) AS given (p)`
	p.exec(query, p.seq, string(eventType), payload, began.Add(time.Duration(p.seq)*time.Second))
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, p.seq)
}

// run runs projections until the returned function is called.
func (p *plant) run(batchMax int, list ...Projection) (lines []*worker.Worker, stop func()) {
	p.t.Helper()
	stop = testenv.RunRouter(p.t, func(router *message.Router) {
		config := Config{Postgres: p.config, Pool: events.MainPool, BatchMax: batchMax, Log: slog.New(slog.DiscardHandler)}
		lines = AddTo(router, config, list...)
	})
	return lines, stop
}

// await waits until projections have come to the end of the journal.
func (p *plant) await(list ...Projection) {
	p.t.Helper()
	for _, projection := range list {
		testenv.Eventually(p.t, 20*time.Second, func() (bool, string) {
			seq, err := worker.ReadCheckpoint(p.ctx, p.db, projection.Name, "main")
			return seq == p.seq, fmt.Sprintf("%s is at %d of %d (%v)", projection.Name, seq, p.seq, err)
		})
	}
}

// rows returns a table as text, ordered.
func (p *plant) rows(table string) string {
	p.t.Helper()
	return p.texts(`SELECT r::text FROM ` + pgx.Identifier{table}.Sanitize() + ` AS r`)
}

// texts returns the rows of a query for one text, ordered, a line each.
func (p *plant) texts(query string) string {
	p.t.Helper()
	var text string
	if err := p.db.QueryRow(p.ctx, `SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (`+query+`) AS lines (line)`).Scan(&text); err != nil {
		p.t.Fatal(err)
	}
	return text
}

// parked returns the seqs of a projection's dead letters, and their errors.
func (p *plant) parked(source string) (seqs []int64, faults []string) {
	p.t.Helper()
	rows, err := p.db.Query(p.ctx, `SELECT seq, error FROM dead_letters WHERE source = $1 AND status = 'parked' ORDER BY seq`, source)
	if err != nil {
		p.t.Fatal(err)
	}
	var seq int64
	var fault string
	_, err = pgx.ForEachRow(rows, []any{&seq, &fault}, func() error {
		seqs, faults = append(seqs, seq), append(faults, fault)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return seqs, faults
}

func created(hold string, qty int64) events.Event {
	return &events.HoldCreated{HoldID: hold, SKU: "shirt", Qty: qty, UserID: "ann", TTLMs: 60_000, IdempotencyKey: "k-" + hold}
}

func confirmed(hold string, qty int64) events.Event {
	return &events.HoldConfirmed{HoldID: hold, SKU: "shirt", Qty: qty, UserID: "ann", PaymentRef: "pay-" + hold}
}

func cancelled(hold string, qty int64, reason string) events.Event {
	return &events.HoldCancelled{HoldID: hold, SKU: "shirt", Qty: qty, UserID: "ann", Reason: reason}
}

func stocked(delta int64) events.Event {
	return &events.StockAdjusted{SKU: "shirt", Delta: delta, Reason: "delivery"}
}
