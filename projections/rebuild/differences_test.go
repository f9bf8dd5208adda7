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

// heldUnits is a projection with a bug: it forgets what factor says. A projection is known by its name, so another
// factor is another version of the same one.
func heldUnits(factor int64) projections.Projection {
	return projections.Projection{
		Name: "counting", Tables: []string{"counting"}, Key: projections.ByHold,
		Schema: `CREATE TABLE IF NOT EXISTS counting (hold_id text PRIMARY KEY, units bigint NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated},
		Apply: projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
			sql.Queue(`INSERT INTO counting VALUES ($1, $2)`, e.HoldID, e.Payload.(*events.HoldCreated).Qty*factor)
			return nil
		}),
	}
}

// TestFixedHandler rebuilds a projection whose bug was fixed: the difference is shown by key and refused, and changes
// nothing; accepted, it is in place, and the fixed line goes on.
func TestFixedHandler(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 100)...)
	p.project(heldUnits(2))
	before := p.tableText(p.liveSchema(), "counting")

	_, err := p.rebuild(p.rebuildConfig(), heldUnits(1))
	var found *DifferencesError
	if !errors.Is(err, ErrDiffers) || !errors.As(err, &found) || len(found.Differences) != 1 {
		t.Fatalf("got %v, want ErrDiffers", err)
	}
	d := found.Differences[0]
	if d.Table != "counting" || d.Seq != p.seq || d.LiveRows != 100 || d.NewRows != 100 || d.Changed != 100 || d.OnlyLive != 0 || d.OnlyNew != 0 || len(d.First) != firstRowsMax {
		t.Errorf("got %+v", d)
	}
	if first := d.First[0]; first.Key != "a-0" || string(first.Live) != `{"hold_id":"a-0","units":2}` || string(first.New) != `{"hold_id":"a-0","units":1}` {
		t.Errorf("first difference: got %+v", first)
	}
	if !strings.Contains(err.Error(), "100 changed") {
		t.Errorf("the error does not tell: %v", err)
	}
	if p.tableText(p.liveSchema(), "counting") != before {
		t.Error("a refused rebuild changed the live table")
	}
	p.wantNoShadows(heldUnits(1))

	config := p.rebuildConfig()
	config.AcceptDifferences = true
	if _, err := p.rebuild(config, heldUnits(1)); err != nil {
		t.Fatal(err)
	}
	p.journal(holdEvents("b", 1)...)
	p.project(heldUnits(1))
	if got := p.queryText(`SELECT count(*) || ' ' || sum(units) FROM counting`); got != "101 101" {
		t.Errorf("got %s rows and units, want 101 of each", got)
	}
	runs, err := List(p.ctx, p.db, 10)
	if err != nil || len(runs) != 2 || runs[0].State != Done || runs[1].State != Failed || len(runs[0].Differences) != 1 || len(runs[1].Differences[0].First) != firstRowsMax {
		t.Errorf("runs: got %+v (%v)", runs, err)
	}
}

// TestDifferencesByKey holds which keys are named when rows are gone, come and changed, of any kind of key.
func TestDifferencesByKey(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"PRIMARY KEY (hold_id)", "PRIMARY KEY (units, hold_id)", "UNIQUE (hold_id)"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			p := newFixture(t)
			p.journal(created("ä", 1), created("b", 1), created("C", 1), created("d d", 1))
			projection := heldUnits(1)
			projection.Schema = `CREATE TABLE IF NOT EXISTS counting (hold_id text, units bigint NOT NULL, CONSTRAINT k ` + key + `)`
			p.project(projection)
			p.exec(`DELETE FROM counting WHERE hold_id = 'b'`)
			p.exec(`INSERT INTO counting VALUES ('x', 1), ('a', 1)`)
			p.exec(`CREATE INDEX counting_by_hand ON counting (units)`)
			p.exec(`ALTER TABLE counting ADD COLUMN noted text`)
			if key == "PRIMARY KEY (hold_id)" {
				p.exec(`UPDATE counting SET units = 7 WHERE hold_id = 'C'`)
			}
			_, err := p.rebuild(p.rebuildConfig(), projection)
			var found *DifferencesError
			if !errors.As(err, &found) {
				t.Fatal(err)
			}
			d := found.Differences[0]
			if fmt.Sprint(d.Lost) != "[column noted index counting_by_hand]" {
				t.Errorf("lost: got %q", d.Lost)
			}
			// With a column more, every row has another text; the keys still tell which are the same.
			got := fmt.Sprint(d.OnlyLive, d.OnlyNew, d.Changed)
			if want := map[bool]string{true: "5 4 0", false: "2 1 3"}[strings.HasPrefix(key, "UNIQUE")]; got != want {
				t.Errorf("got %s, want %s: %+v", got, want, d)
			}
		})
	}
}

// TestLostTable holds that a table of the projection that is gone is a difference like any other, and comes back.
func TestLostTable(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	projection := heldUnits(1)
	projection.Tables = append(projection.Tables, "beside")
	projection.Schema += `; CREATE TABLE IF NOT EXISTS beside (hold_id text PRIMARY KEY)`
	apply := projection.Apply
	projection.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		for _, e := range batch {
			if _, err := tx.Exec(ctx, `INSERT INTO beside VALUES ($1)`, e.HoldID); err != nil {
				return err
			}
		}
		return apply(ctx, tx, batch)
	}
	p.journal(created("a", 1), created("b", 1))
	p.project(projection)
	p.exec(`DROP TABLE beside`)
	if _, err := p.rebuild(p.rebuildConfig(), projection); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "beside at seq 2: 0 rows live, 2 new; 0 changed, 0 only live, 2 only new") {
		t.Errorf("got %v, want the lost rows counted", err)
	}
	config := p.rebuildConfig()
	config.AcceptDifferences = true
	if _, err := p.rebuild(config, projection); err != nil {
		t.Fatal(err)
	}
	p.journal(created("c", 1))
	p.project(projection)
	if got := p.queryText(`SELECT count(*) FROM beside JOIN counting USING (hold_id)`); got != "3" {
		t.Errorf("got %s rows, want 3", got)
	}
}
