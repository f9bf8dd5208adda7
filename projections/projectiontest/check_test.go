package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	mu   sync.Mutex
	text string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.text += fmt.Sprintf(format, args...) + "\n"
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

// report returns what CheckLaws says of a projection, "" where it is content.
func report(t *testing.T, build func() projections.Projection, options ...Option) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		CheckLaws(r, build, options...)
	}()
	<-done
	return r.text
}

// only leaves out all laws but one. The two that a straight application shows are always checked.
func only(kept Law) Option {
	return func(s *settings) {
		for _, l := range laws {
			s.without[l.name] = l.name != kept
		}
	}
}

// tally is a projection of the units reserved per SKU. Its add writes the units of some events, given by SKU.
func tally(add func(ctx context.Context, tx pgx.Tx, units map[string]int64) error) projections.Projection {
	return projections.Projection{
		Name: "tally", Tables: []string{"tally"}, Key: projections.BySKU,
		Schema: `CREATE TABLE IF NOT EXISTS tally (sku text PRIMARY KEY, units bigint NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldCancelled},
		Apply: func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
			units := map[string]int64{}
			for _, e := range batch {
				switch p := e.Payload.(type) {
				case *events.HoldCreated:
					units[p.SKU] += p.Qty
				case *events.HoldCancelled:
					units[p.SKU] -= p.Qty
				}
			}
			return add(ctx, tx, units)
		},
	}
}

// upsert returns an add for tally, which writes with the given statement. Its parameters are the SKU and the units.
func upsert(sql string) func(context.Context, pgx.Tx, map[string]int64) error {
	return func(ctx context.Context, tx pgx.Tx, units map[string]int64) error {
		var batch pgx.Batch
		for sku, count := range units {
			batch.Queue(sql, sku, count)
		}
		return tx.SendBatch(ctx, &batch).Close()
	}
}

const (
	adds     = `INSERT INTO tally AS t VALUES ($1, $2) ON CONFLICT (sku) DO UPDATE SET units = t.units + excluded.units`
	replaces = `INSERT INTO tally AS t VALUES ($1, $2) ON CONFLICT (sku) DO UPDATE SET units = excluded.units`
)

func healthy() projections.Projection { return tally(upsert(adds)) }

// perEvent returns a projection with a table of its own, into which it writes with one statement per hold made; its
// parameters are the hold's id, its event's time, and its deadline.
func perEvent(schema, sql string) func() projections.Projection {
	return func() projections.Projection {
		return projections.Projection{
			Name: "made", Tables: []string{"made"}, Key: projections.ByHold, Schema: schema, Wants: []events.Type{events.TypeHoldCreated},
			Apply: projections.PerEvent(func(e projections.Event, batch *pgx.Batch) error {
				batch.Queue(sql, e.HoldID, e.At)
				return nil
			}),
		}
	}
}

// broken are projections that break a law each, by a mistake that is easily made.
var broken = []struct {
	mistake string
	law     Law
	build   func() projections.Projection
}{
	{"a batch replaces what the last one wrote", Batches, func() projections.Projection { return tally(upsert(replaces)) }},
	{"state is kept in memory", Killed, keepsInMemory},
	{"state is kept in memory", Rebuilt, keepsInMemory},
	{"state is kept in memory", Poison, keepsInMemory},
	{"it writes beside its transaction", Killed, writesBeside},
	{"it writes beside its transaction", Together, writesBeside},
	{"it writes beside its transaction", Poison, writesBeside},
	{"rows are numbered by a sequence", Killed, perEvent(
		`CREATE TABLE IF NOT EXISTS made (id bigint GENERATED ALWAYS AS IDENTITY, hold_id text)`,
		`INSERT INTO made (hold_id) SELECT $1 WHERE $2::timestamptz IS NOT NULL`,
	)},
	{"rows say when they were written", Batches, perEvent(
		`CREATE TABLE IF NOT EXISTS made (hold_id text, written_at timestamptz DEFAULT now())`,
		`INSERT INTO made (hold_id) SELECT $1 WHERE $2::timestamptz IS NOT NULL`,
	)},
	{"the wall clock decides", Clock, perEvent(
		`CREATE TABLE IF NOT EXISTS made (hold_id text, recent boolean)`,
		`INSERT INTO made VALUES ($1, $2 > now())`,
	)},
	{"the time zone decides", Clock, perEvent(
		`CREATE TABLE IF NOT EXISTS made (hold_id text, day date)`,
		`INSERT INTO made VALUES ($1, $2::timestamptz::date)`,
	)},
	{"it writes the table of another", OwnTables, func() projections.Projection {
		return tally(upsert(`INSERT INTO pools (pool, epoch) SELECT $1, 1 WHERE $2::bigint IS NOT NULL ON CONFLICT DO NOTHING`))
	}},
	{"it does not name a table", OwnTables, func() projections.Projection {
		p := healthy()
		p.Schema += `; CREATE TABLE IF NOT EXISTS more ()`
		return p
	}},
	{"it changes what it shares", OwnTables, changesPayloads},
	{"it names the schema", Rebuilt, namesSchema},
	{"it refuses what is valid", Applies, func() projections.Projection {
		p := healthy()
		p.Schema = `CREATE TABLE IF NOT EXISTS tally (sku text PRIMARY KEY, units bigint NOT NULL CHECK (units < 1))`
		return p
	}},
	{"it uses a table that is not there", Applies, func() projections.Projection {
		return tally(upsert(`INSERT INTO hold VALUES ($1, $2)`))
	}},
	{"the key needs the payload", Poison, func() projections.Projection {
		p := healthy()
		p.Key = func(e *events.Envelope) string {
			if payload, err := e.Decode(); err == nil {
				return fmt.Sprintf("%T", payload)
			}
			return ""
		}
		return p
	}},
	{"the key parts what belongs together", Poison, func() projections.Projection {
		p := projections.Holds()
		p.Key = func(e *events.Envelope) string { return e.EventID.String() }
		return p
	}},
}

func keepsInMemory() projections.Projection {
	total := map[string]int64{}
	return tally(func(ctx context.Context, tx pgx.Tx, units map[string]int64) error {
		for sku, count := range units {
			total[sku] += count
		}
		return upsert(replaces)(ctx, tx, total)
	})
}

func writesBeside() projections.Projection {
	return tally(func(ctx context.Context, tx pgx.Tx, units map[string]int64) error {
		conn, err := pgx.ConnectConfig(ctx, tx.Conn().Config())
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		return pgx.BeginFunc(ctx, conn, func(own pgx.Tx) error { return upsert(adds)(ctx, own, units) })
	})
}

func changesPayloads() projections.Projection {
	p := healthy()
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		if made, ok := batch[0].Payload.(*events.HoldCreated); ok {
			made.UserID = strings.ToUpper(made.UserID)
		}
		return apply(ctx, tx, batch)
	}
	return p
}

func namesSchema() projections.Projection {
	return tally(func(ctx context.Context, tx pgx.Tx, units map[string]int64) error {
		var schema string
		if err := tx.QueryRow(ctx, `SELECT (current_schemas(false))[array_upper(current_schemas(false), 1)]`).Scan(&schema); err != nil {
			return err
		}
		return upsert(strings.Replace(adds, "INTO tally", "INTO "+schema+".tally", 1))(ctx, tx, units)
	})
}

// TestBrokenProjections holds that each mistake is found by each law that is there for it, whatever the seed, and that
// the report says which law, which history, and which rows.
func TestBrokenProjections(t *testing.T) {
	t.Parallel()
	seed := regexp.MustCompile(`seed \d+, \d+ events; try them again: projectiontest\.Seed\((\d+)\), projectiontest\.Events\(\d+\)`)
	for _, test := range broken {
		t.Run(test.mistake+": "+string(test.law), func(t *testing.T) {
			t.Parallel()
			text := report(t, test.build, only(test.law), Histories(1))
			t.Log(text)
			if !strings.Contains(text, string(test.law)) || !seed.MatchString(text) {
				t.Errorf("got %q, want the law %q and the seed", text, test.law)
			}
			showsRows := strings.Contains(text, "is missing") || strings.Contains(text, "should not be")
			if static := test.law == OwnTables || test.law == Applies || strings.Contains(test.mistake, "key"); showsRows == static {
				t.Errorf("got %q, want rows: %t", text, !static)
			}
		})
	}
}

// TestHealthyProjections holds that the kit is content with a projection that keeps the laws, in either style.
func TestHealthyProjections(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func() projections.Projection{
		"per batch": healthy,
		"per event": perEvent(`CREATE TABLE IF NOT EXISTS made (hold_id text, at timestamptz)`, `INSERT INTO made VALUES ($1, $2)`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			CheckLaws(t, build, Histories(1))
		})
	}
}

// TestRefusals holds what cannot be checked at all.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*projections.Projection){
		"wants COUPON_ISSUED":    func(p *projections.Projection) { p.Wants = append(p.Wants, "COUPON_ISSUED") },
		"syntax error":           func(p *projections.Projection) { p.Schema = "CREATE TABLE" },
		"does not create nobody": func(p *projections.Projection) { p.Tables = append(p.Tables, "nobody") },
	} {
		text := report(t, func() projections.Projection {
			p := healthy()
			change(&p)
			return p
		})
		if !strings.Contains(text, want) {
			t.Errorf("got %q, want it to say %q", text, want)
		}
	}
}

// TestDeaths holds that a process dies where a law wants it to: with its first batch undone, or done and nobody told.
func TestDeaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, healthy)
	w.journal(history(1, 20))
	for d, want := range map[death]int64{afterWriting: 0, failingCommit: 0, duringCommit: 0, afterCommit: 15} {
		w.empty()
		if err := w.live(process{projection: w.build(), batchMax: 15, death: d}); err != nil {
			t.Fatal(err)
		}
		if got := w.checkpoint(); got != want {
			t.Errorf("after death %d the checkpoint is at %d, want %d", d, got, want)
		}
		if letter := w.firstLetter(); letter != "" {
			t.Errorf("death %d parked %s", d, letter)
		}
	}
	w.empty()
	stuck := w.build()
	stuck.Apply = func(context.Context, pgx.Tx, []projections.Event) error { return context.Canceled }
	if err := w.live(process{projection: stuck}); !errors.Is(err, context.Canceled) {
		t.Errorf("a line that stops: got %v", err)
	}
}

// TestHistories holds that histories are valid, that a seed makes one history, and that a shorter one is its beginning.
func TestHistories(t *testing.T) {
	t.Parallel()
	text := func(list []entry) string { return fmt.Sprint(list) }
	for seed := range uint64(200) {
		list := history(seed, 100)
		if text(list) != text(history(seed, 100)) || text(list[:30]) != text(history(seed, 30)) {
			t.Fatalf("seed %d makes more than one history", seed)
		}
		types := map[events.Type]int{}
		available, live := map[string]int64{}, map[string]entry{}
		for i, e := range list {
			if i > 0 && e.at.Before(list[i-1].at) {
				t.Fatalf("seed %d: time runs back at event %d", seed, i+1)
			}
			types[e.event.Type()]++
			switch p := e.event.(type) {
			case *events.StockAdjusted:
				available[p.SKU] += p.Delta
			case *events.HoldCreated:
				available[p.SKU] -= p.Qty
				live[p.HoldID] = e
			case *events.HoldConfirmed:
				wantLive(t, live, p.HoldID, e, true)
			case *events.HoldCancelled:
				available[p.SKU] += p.Qty
				wantLive(t, live, p.HoldID, e, p.Reason != events.ReasonExpired)
			}
			for sku, units := range available {
				if units < 0 {
					t.Fatalf("seed %d: event %d leaves %d of %s", seed, i+1, units, sku)
				}
			}
		}
		if len(types) != 4 {
			t.Errorf("seed %d has only %v", seed, types)
		}
	}
}

func wantLive(t *testing.T, live map[string]entry, id string, ends entry, inTime bool) {
	t.Helper()
	made, here := live[id]
	delete(live, id)
	h, _ := made.event.(*events.HoldCreated)
	if !here || inTime != (ends.at.Sub(made.at).Milliseconds() < h.TTLMs) {
		t.Fatalf("%s ends %s", ends, made)
	}
}

// TestReport holds that a seed makes the same report every time, which is the one that the how-to shows.
func TestReport(t *testing.T) {
	t.Parallel()
	howTo, err := os.ReadFile("../../docs/how-to-add-a-projection.md")
	if err != nil {
		t.Fatal(err)
	}
	replacing := func() projections.Projection { return tally(upsert(replaces)) }
	if text := report(t, replacing, Seed(4)); !strings.Contains(string(howTo), "```text\n"+text+"```") {
		t.Errorf("docs/how-to-add-a-projection.md does not show this report:\n%s", text)
	}
}
