package projectiontest

import (
	"context"
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

// recorder is a testing.TB that records failures instead of failing.
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

// report returns the failure message of CheckLaws for a projection, or "" if it passes.
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

// only skips all laws but one. Applies and OwnTables cannot be skipped.
func only(kept Law) Option {
	return func(s *settings) {
		for _, l := range lawChecks {
			s.skipped[l.law] = l.law != kept
		}
	}
}

// tally returns a projection of the units reserved per SKU. It calls add with the units
// of a batch, per SKU.
func tally(add func(ctx context.Context, tx pgx.Tx, units map[string]int64) error) projections.Projection {
	return projections.Projection{
		Name:   "tally",
		Tables: []string{"tally"},
		Schema: `CREATE TABLE IF NOT EXISTS tally (sku text PRIMARY KEY, units bigint NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldCancelled},
		Key:    projections.BySKU,
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

// upsert returns an add for tally that runs a statement per SKU. Its parameters are the
// SKU and the units.
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
	adds = `
		INSERT INTO tally AS t VALUES ($1, $2)
		ON CONFLICT (sku) DO UPDATE SET units = t.units + excluded.units`
	replaces = `
		INSERT INTO tally AS t VALUES ($1, $2)
		ON CONFLICT (sku) DO UPDATE SET units = excluded.units`
)

func healthy() projections.Projection { return tally(upsert(adds)) }

// perEvent returns a projection with a table named created, which runs a statement for
// each HOLD_CREATED event. The parameters of the statement are the hold's id and the
// event's time.
func perEvent(schema, sql string) func() projections.Projection {
	return func() projections.Projection {
		return projections.Projection{
			Name:   "created",
			Tables: []string{"created"},
			Schema: schema,
			Wants:  []events.Type{events.TypeHoldCreated},
			Key:    projections.ByHold,
			Apply: projections.PerEvent(func(e projections.Event, batch *pgx.Batch) error {
				batch.Queue(sql, e.HoldID, e.At)
				return nil
			}),
		}
	}
}

// mistakes are projections with a mistake that is easy to make, and a law that finds it.
var mistakes = []struct {
	mistake string
	law     Law
	build   func() projections.Projection
}{
	{"a batch replaces the units of the batch before", Batches, replacesUnits},
	{"state is kept in memory", Killed, keepsInMemory},
	{"state is kept in memory", Rebuilt, keepsInMemory},
	{"state is kept in memory", Poison, keepsInMemory},
	{"it writes outside its transaction", Killed, writesOutside},
	{"it writes outside its transaction", TwoWorkers, writesOutside},
	{"it writes outside its transaction", Poison, writesOutside},
	{"rows are numbered by a sequence", Killed, perEvent(
		`CREATE TABLE IF NOT EXISTS created (id bigint GENERATED ALWAYS AS IDENTITY, hold_id text)`,
		`INSERT INTO created (hold_id) SELECT $1 WHERE $2::timestamptz IS NOT NULL`,
	)},
	{"rows have the time at which they were written", Batches, perEvent(
		`CREATE TABLE IF NOT EXISTS created (hold_id text, written_at timestamptz DEFAULT now())`,
		`INSERT INTO created (hold_id) SELECT $1 WHERE $2::timestamptz IS NOT NULL`,
	)},
	{"rows depend on the wall clock", Clock, perEvent(
		`CREATE TABLE IF NOT EXISTS created (hold_id text, recent boolean)`,
		`INSERT INTO created VALUES ($1, $2 > now())`,
	)},
	{"rows depend on the time zone", Clock, perEvent(
		`CREATE TABLE IF NOT EXISTS created (hold_id text, day date)`,
		`INSERT INTO created VALUES ($1, $2::timestamptz::date)`,
	)},
	{"it writes a table that it does not own", OwnTables, writesPools},
	{"its Tables lack a table", OwnTables, createsMoreTables},
	{"it changes the payload of an event", OwnTables, changesPayloads},
	{"its SQL names the schema", Rebuilt, namesSchema},
	{"it refuses a valid event", Applies, refusesEvents},
	{"it uses a table that does not exist", Applies, usesMissingTable},
	{"the key needs the payload", Poison, keyNeedsPayload},
	{"the key separates events of one row", Poison, keyPerEvent},
}

func replacesUnits() projections.Projection { return tally(upsert(replaces)) }

func writesPools() projections.Projection {
	return tally(upsert(`
		INSERT INTO pools (pool, epoch)
		SELECT $1, 1 WHERE $2::bigint IS NOT NULL
		ON CONFLICT DO NOTHING`))
}

func createsMoreTables() projections.Projection {
	p := healthy()
	p.Schema += `; CREATE TABLE IF NOT EXISTS more ()`
	return p
}

func refusesEvents() projections.Projection {
	p := healthy()
	p.Schema = `
		CREATE TABLE IF NOT EXISTS tally (
			sku text PRIMARY KEY,
			units bigint NOT NULL CHECK (units < 1)
		)`
	return p
}

func usesMissingTable() projections.Projection {
	return tally(upsert(`INSERT INTO hold VALUES ($1, $2)`))
}

func keyNeedsPayload() projections.Projection {
	p := healthy()
	p.Key = func(e *events.Envelope) string {
		if payload, err := e.Decode(); err == nil {
			return fmt.Sprintf("%T", payload)
		}
		return ""
	}
	return p
}

func keyPerEvent() projections.Projection {
	p := projections.Holds()
	p.Key = func(e *events.Envelope) string { return e.EventID.String() }
	return p
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

func writesOutside() projections.Projection {
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
		if created, ok := batch[0].Payload.(*events.HoldCreated); ok {
			created.UserID = strings.ToUpper(created.UserID)
		}
		return apply(ctx, tx, batch)
	}
	return p
}

func namesSchema() projections.Projection {
	return tally(func(ctx context.Context, tx pgx.Tx, units map[string]int64) error {
		var schema string
		const lastOfPath = `SELECT (current_schemas(false))[array_upper(current_schemas(false), 1)]`
		if err := tx.QueryRow(ctx, lastOfPath).Scan(&schema); err != nil {
			return err
		}
		qualified := strings.Replace(adds, "INTO tally", "INTO "+schema+".tally", 1)
		return upsert(qualified)(ctx, tx, units)
	})
}

// TestMistakesAreFound checks that each law finds each mistake that it is listed with,
// for any seed, and that the failure message names the law, the history and the rows that
// differ.
func TestMistakesAreFound(t *testing.T) {
	t.Parallel()
	seed := regexp.MustCompile(
		`seed \d+, \d+ events; to repeat: projectiontest\.Seed\((\d+)\), projectiontest\.Events\(\d+\)`)
	for _, test := range mistakes {
		t.Run(test.mistake+": "+string(test.law), func(t *testing.T) {
			t.Parallel()
			text := report(t, test.build, only(test.law), Histories(1))
			t.Log(text)
			if !strings.Contains(text, string(test.law)) {
				t.Errorf("got %q, want the law %q", text, test.law)
			}
			if !seed.MatchString(text) {
				t.Errorf("got %q, want the seed", text)
			}
			gotRows := strings.Contains(text, "is missing") || strings.Contains(text, "should not be there")
			wantRows := test.law != OwnTables && test.law != Applies && !strings.Contains(test.mistake, "key")
			if gotRows != wantRows {
				t.Errorf("got %q, want rows: %t", text, wantRows)
			}
		})
	}
}

func TestGoodProjectionsPass(t *testing.T) {
	t.Parallel()
	for name, build := range map[string]func() projections.Projection{
		"per batch": healthy,
		"per event": perEvent(
			`CREATE TABLE IF NOT EXISTS created (hold_id text, at timestamptz)`,
			`INSERT INTO created VALUES ($1, $2)`,
		),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			CheckLaws(t, build, Histories(1))
		})
	}
}

// TestUncheckableProjectionsAreRefused checks the messages for projections that cannot be
// checked against any law.
func TestUncheckableProjectionsAreRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*projections.Projection){
		"wants COUPON_ISSUED": func(p *projections.Projection) {
			p.Wants = append(p.Wants, "COUPON_ISSUED")
		},
		"syntax error": func(p *projections.Projection) { p.Schema = "CREATE TABLE" },
		"does not create invented": func(p *projections.Projection) {
			p.Tables = append(p.Tables, "invented")
		},
	} {
		text := report(t, func() projections.Projection {
			p := healthy()
			change(&p)
			return p
		})
		if !strings.Contains(text, want) {
			t.Errorf("got %q, want it to contain %q", text, want)
		}
	}
}

// TestHowToShowsTheReport checks that docs/how-to-add-a-projection.md shows the current
// failure message of seed 4.
func TestHowToShowsTheReport(t *testing.T) {
	t.Parallel()
	howTo, err := os.ReadFile("../../docs/how-to-add-a-projection.md")
	if err != nil {
		t.Fatal(err)
	}
	text := report(t, replacesUnits, Seed(4))
	if !strings.Contains(string(howTo), "```text\n"+text+"```") {
		t.Errorf("docs/how-to-add-a-projection.md does not show this report:\n%s", text)
	}
}
