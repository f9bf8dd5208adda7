package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a Postgres schema of its own with a journal and the built-in read tables.
type fixture struct {
	t      *testing.T
	ctx    context.Context
	config *pgx.ConnConfig
	db     *pgx.Conn
	seq    int64 // of the journal's last event
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	config := testenv.ParseURL(t, testenv.Schema(t))
	// The name tells the sessions of this test from those of other tests.
	config.RuntimeParams["application_name"] = config.RuntimeParams["search_path"]
	f := &fixture{
		t:      t,
		ctx:    ctx,
		config: config,
		db:     testenv.Connect(t, config),
	}
	if err := CreateTables(ctx, f.db, BuiltIn()...); err != nil {
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

// startTime is one second before the time of the journal's first event.
var startTime = time.UnixMilli(1764000000000).UTC()

// journal appends events to the journal, one second apart.
func (f *fixture) journal(list ...events.Event) {
	f.t.Helper()
	for _, event := range list {
		payload, err := json.Marshal(event)
		if err != nil {
			f.t.Fatal(err)
		}
		f.journalRaw(event.Type(), string(payload))
	}
}

// journalRaw appends an event with any type and payload.
func (f *fixture) journalRaw(eventType events.Type, payload string) {
	f.t.Helper()
	f.seq++
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $4 FROM (SELECT $3::jsonb) AS given (p)`
	f.exec(query, f.seq, string(eventType), payload, startTime.Add(time.Duration(f.seq)*time.Second))
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, f.seq)
}

// run runs projections until stop is called or the test ends.
func (f *fixture) run(batchMax int, list ...Projection) (workers []*worker.Worker, stop func()) {
	f.t.Helper()
	stop = testenv.RunRouter(f.t, func(router *message.Router) {
		config := Config{
			Postgres: f.config,
			Pool:     events.MainPool,
			BatchMax: batchMax,
			Log:      slog.New(slog.DiscardHandler),
		}
		workers = AddTo(router, config, list...)
	})
	return workers, stop
}

// await waits until projections have reached the end of the journal.
func (f *fixture) await(list ...Projection) {
	f.t.Helper()
	for _, projection := range list {
		testenv.Eventually(f.t, 20*time.Second, func() (bool, string) {
			seq, err := worker.ReadCheckpoint(f.ctx, f.db, projection.Name, "main")
			return seq == f.seq, fmt.Sprintf("%s is at %d of %d (%v)", projection.Name, seq, f.seq, err)
		})
	}
}

// notes returns a projection that writes the seq and hold id of each event into the table
// notes, and then calls fail with the event. Apply returns the error that fail returns.
func (f *fixture) notes(fail func(Event) error) Projection {
	return Projection{
		Name:   "notes",
		Tables: []string{"notes"},
		Schema: `CREATE TABLE IF NOT EXISTS notes (seq bigint PRIMARY KEY, hold_id text NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:    ByHold,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			write := PerEvent(func(e Event, sql *pgx.Batch) error {
				sql.Queue(`INSERT INTO notes VALUES ($1, $2)`, e.Seq, e.HoldID)
				return nil
			})
			if err := write(ctx, tx, batch); err != nil {
				return err
			}
			for _, e := range batch {
				if err := fail(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func neverFails(Event) error { return nil }

// rows returns the rows of a table as text, sorted, one per line.
func (f *fixture) rows(table string) string {
	f.t.Helper()
	return f.texts(`SELECT r::text FROM ` + pgx.Identifier{table}.Sanitize() + ` AS r`)
}

// texts returns the rows of a query with one text column, sorted, one per line.
func (f *fixture) texts(query string) string {
	f.t.Helper()
	var text string
	all := `SELECT coalesce(string_agg(line, E'\n' ORDER BY line), '') FROM (` + query + `) AS lines (line)`
	if err := f.db.QueryRow(f.ctx, all).Scan(&text); err != nil {
		f.t.Fatal(err)
	}
	return text
}

// wantRows checks the rows of a table, given as rows returns them.
func (f *fixture) wantRows(table, want string) {
	f.t.Helper()
	if got := f.rows(table); got != want {
		f.t.Errorf("%s: got rows\n%s\nwant\n%s", table, got, want)
	}
}

// wantHold checks the status of a hold.
func (f *fixture) wantHold(id, status string) {
	f.t.Helper()
	h, err := FindHold(f.ctx, f.db, "main", id)
	if err != nil {
		f.t.Errorf("hold %s: %v", id, err)
	}
	if h.Status != status {
		f.t.Errorf("hold %s: got status %q, want %q", id, h.Status, status)
	}
}

// wantCheckpoint checks the checkpoint of a projection.
func (f *fixture) wantCheckpoint(projection string, want int64) {
	f.t.Helper()
	got, err := worker.ReadCheckpoint(f.ctx, f.db, projection, "main")
	if err != nil {
		f.t.Errorf("checkpoint of %s: %v", projection, err)
	}
	if got != want {
		f.t.Errorf("checkpoint of %s: got %d, want %d", projection, got, want)
	}
}

// wantParked checks the seqs of a source's parked letters, and returns their errors in
// the same order. It returns an empty text for each missing letter.
func (f *fixture) wantParked(source string, want ...int64) []string {
	f.t.Helper()
	rows, err := f.db.Query(f.ctx,
		`SELECT seq, error FROM dead_letters WHERE source = $1 AND status = 'parked' ORDER BY seq`, source)
	if err != nil {
		f.t.Fatal(err)
	}
	var seqs []int64
	var texts []string
	var seq int64
	var text string
	_, err = pgx.ForEachRow(rows, []any{&seq, &text}, func() error {
		seqs = append(seqs, seq)
		texts = append(texts, text)
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if !slices.Equal(seqs, want) {
		f.t.Errorf("%s: parked events %v with errors %q, want events %v", source, seqs, texts, want)
		return make([]string, len(want))
	}
	return texts
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

func cancelled(hold string, qty int64, reason string) events.Event {
	return &events.HoldCancelled{
		HoldID: hold,
		SKU:    "shirt",
		Qty:    qty,
		UserID: "ann",
		Reason: reason,
	}
}

func adjusted(delta int64) events.Event {
	return &events.StockAdjusted{
		SKU:    "shirt",
		Delta:  delta,
		Reason: "delivery",
	}
}
