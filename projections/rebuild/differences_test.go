package rebuild

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// heldUnits is a projection that stores each hold with its quantity times factor. A
// factor other than 1 is a bug of the handler. A projection is identified by its name, so
// another factor is another version of the same projection.
func heldUnits(factor int64) projections.Projection {
	return projections.Projection{
		Name:   "held_units",
		Tables: []string{"held_units"},
		Key:    projections.ByHold,
		Schema: `CREATE TABLE IF NOT EXISTS held_units (hold_id text PRIMARY KEY, units bigint NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated},
		Apply: projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
			sql.Queue(`INSERT INTO held_units VALUES ($1, $2)`,
				e.HoldID, e.Payload.(*events.HoldCreated).Qty*factor)
			return nil
		}),
	}
}

// TestDifferencesAreRefusedUnlessAccepted rebuilds a projection whose bug was fixed. The
// rebuild shows the first differing keys and changes nothing. With AcceptDifferences it
// swaps the new table in, and the worker of the fixed projection continues on it.
func TestDifferencesAreRefusedUnlessAccepted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 100)...)
	f.project(heldUnits(2))
	before := f.tableText(f.liveSchema(), "held_units")

	_, err := f.rebuild(f.rebuildConfig(), heldUnits(1))
	var found *DifferencesError
	if !errors.As(err, &found) {
		t.Fatalf("got %v, want a DifferencesError", err)
	}
	if len(found.Differences) != 1 {
		t.Fatalf("got %d differences, want 1: %v", len(found.Differences), err)
	}
	d := found.Differences[0]
	if want := fmt.Sprintf("held_units at seq %d: 100 rows live, 100 new; 100 changed, 0 only live, 0 only new", f.seq); d.String() != want {
		t.Errorf("difference: got %s, want %s", d, want)
	}
	if len(d.First) != firstRowsMax {
		t.Errorf("got %d first rows, want %d", len(d.First), firstRowsMax)
	}
	first := d.First[0]
	if first.Key != "a-0" {
		t.Errorf("first key: got %s, want a-0", first.Key)
	}
	if got, want := string(first.Live), `{"hold_id":"a-0","units":2}`; got != want {
		t.Errorf("first live row: got %s, want %s", got, want)
	}
	if got, want := string(first.New), `{"hold_id":"a-0","units":1}`; got != want {
		t.Errorf("first new row: got %s, want %s", got, want)
	}
	if !strings.Contains(err.Error(), "100 changed") {
		t.Errorf("got error %q, want the count of changed rows in it", err)
	}
	if f.tableText(f.liveSchema(), "held_units") != before {
		t.Error("a refused rebuild changed the live table")
	}
	f.wantNoShadows(heldUnits(1))

	config := f.rebuildConfig()
	config.AcceptDifferences = true
	if _, err := f.rebuild(config, heldUnits(1)); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(holdEvents("b", 1)...)
	f.project(heldUnits(1))
	if got := f.queryText(`SELECT count(*) || ' ' || sum(units) FROM held_units`); got != "101 101" {
		t.Errorf("got %s rows and units, want 101 of each", got)
	}
	runs := f.wantRuns("after both rebuilds", Done, Failed)
	if got := len(runs[0].Differences); got != 1 {
		t.Errorf("the accepting run records %d differences, want 1", got)
	}
	if got := len(runs[1].Differences[0].First); got != firstRowsMax {
		t.Errorf("the refused run records %d first rows, want %d", got, firstRowsMax)
	}
}

// TestDifferencesCountKeys checks the counts of missing, additional and changed keys for
// a primary key of one column, of two columns, and for a table without a primary key.
func TestDifferencesCountKeys(t *testing.T) {
	t.Parallel()
	keys := []string{"PRIMARY KEY (hold_id)", "PRIMARY KEY (units, hold_id)", "UNIQUE (hold_id)"}
	for _, key := range keys {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEvents(created("ä", 1), created("b", 1), created("C", 1), created("d d", 1))
			projection := heldUnits(1)
			projection.Schema = `CREATE TABLE IF NOT EXISTS held_units (hold_id text, units bigint NOT NULL, CONSTRAINT k ` + key + `)`
			f.project(projection)
			f.exec(`DELETE FROM held_units WHERE hold_id = 'b'`)
			f.exec(`INSERT INTO held_units VALUES ('x', 1), ('a', 1)`)
			f.exec(`CREATE INDEX held_units_by_hand ON held_units (units)`)
			f.exec(`ALTER TABLE held_units ADD COLUMN noted text`)
			if key == "PRIMARY KEY (hold_id)" {
				f.exec(`UPDATE held_units SET units = 7 WHERE hold_id = 'C'`)
			}
			_, err := f.rebuild(f.rebuildConfig(), projection)
			var found *DifferencesError
			if !errors.As(err, &found) {
				t.Fatalf("got %v, want a DifferencesError", err)
			}
			d := found.Differences[0]
			if got, want := fmt.Sprint(d.Lost), "[column noted index held_units_by_hand]"; got != want {
				t.Errorf("lost: got %q, want %q", got, want)
			}
			// The additional column changes the text of every row. With a primary key,
			// rows are still matched by key; without one, the whole row is the key.
			want := "2 1 3"
			if strings.HasPrefix(key, "UNIQUE") {
				want = "5 4 0"
			}
			if got := fmt.Sprint(d.OnlyLive, d.OnlyNew, d.Changed); got != want {
				t.Errorf("only live, only new, changed: got %s, want %s: %+v", got, want, d)
			}
		})
	}
}

// TestMissingLiveTableCountsAsDifference drops one of the two tables of a projection. The
// rebuild counts its rows as a difference, and creates the table if that is accepted.
func TestMissingLiveTableCountsAsDifference(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	projection := heldUnits(1)
	projection.Tables = append(projection.Tables, "second_table")
	projection.Schema += `; CREATE TABLE IF NOT EXISTS second_table (hold_id text PRIMARY KEY)`
	apply := projection.Apply
	projection.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		for _, e := range batch {
			if _, err := tx.Exec(ctx, `INSERT INTO second_table VALUES ($1)`, e.HoldID); err != nil {
				return err
			}
		}
		return apply(ctx, tx, batch)
	}
	f.appendEvents(created("a", 1), created("b", 1))
	f.project(projection)
	f.exec(`DROP TABLE second_table`)

	_, err := f.rebuild(f.rebuildConfig(), projection)
	if found := new(DifferencesError); !errors.As(err, &found) {
		t.Fatalf("got %v, want a DifferencesError", err)
	}
	const want = "second_table at seq 2: 0 rows live, 2 new; 0 changed, 0 only live, 2 only new"
	if !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}

	config := f.rebuildConfig()
	config.AcceptDifferences = true
	if _, err := f.rebuild(config, projection); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(created("c", 1))
	f.project(projection)
	if got := f.queryText(`SELECT count(*) FROM second_table JOIN held_units USING (hold_id)`); got != "3" {
		t.Errorf("got %s rows that both tables have, want 3", got)
	}
}
