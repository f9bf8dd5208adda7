package projections

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestCreateTables makes tables, from many sessions at once and again, and keeps what is in them.
func TestCreateTables(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.exec(`DROP TABLE holds, orders, stock_levels`)
	var all sync.WaitGroup
	for range 8 {
		conn := testenv.Connect(t, p.config)
		all.Go(func() {
			if err := CreateTables(p.ctx, conn, BuiltIn()...); err != nil {
				t.Errorf("together: %v", err)
			}
		})
	}
	all.Wait()
	p.exec(`INSERT INTO stock_levels VALUES ('shirt', 1, 0, 0)`)
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('stock_levels', 'main', 7)`)
	if err := CreateTables(p.ctx, p.db, BuiltIn()...); err != nil {
		t.Error(err)
	}
	if got, want := p.rows("stock_levels"), "(shirt,1,0,0)"; got != want {
		t.Errorf("rows after making the tables again: got %q, want %q", got, want)
	}
	if seq, err := events.ReadCheckpoint(p.ctx, p.db, "stock_levels", "main"); err != nil || seq != 7 {
		t.Errorf("the checkpoint is at %d (%v), want it left at 7", seq, err)
	}
}

// TestLostTables holds that a projection whose tables were dropped begins anew, and that one which lost some of them
// stops and says what to do, rather than going on with half of what it knew.
func TestLostTables(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(created("a", 1), created("b", 1))
	projection := p.notes(healthy)
	_, stop := p.run(0, projection)
	p.await(projection)
	stop()
	p.exec(`DROP TABLE notes`)
	p.journal(created("c", 1))
	_, stop = p.run(0, projection)
	p.await(projection)
	stop()
	if got, want := p.rows("notes"), "(1,a)\n(2,b)\n(3,c)"; got != want {
		t.Errorf("after the table was dropped: got %q, want %q", got, want)
	}
	projection.Tables = slices.Concat(projection.Tables, []string{"more"})
	if err := CreateTables(p.ctx, p.db, projection); !errors.Is(err, errTablesGone) || !strings.Contains(err.Error(), "rebuild notes") {
		t.Errorf("with one table of two: got %v, want errTablesGone and what to do", err)
	}
	p.exec(`DROP TABLE notes`)
	if err := CreateTables(p.ctx, p.db, projection); err == nil || !strings.Contains(err.Error(), "does not create more") {
		t.Errorf("a Schema that lacks a table: got %v", err)
	}
}

// TestDropTables takes tables and checkpoints away together.
func TestDropTables(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 7), ('journal', 'main', 9)`)
	for range 2 {
		if err := DropTables(p.ctx, p.db, BuiltIn()...); err != nil {
			t.Fatal(err)
		}
		var left string
		const query = `SELECT (to_regclass('holds') IS NULL)::text || (SELECT string_agg(projection, ' ') FROM checkpoints)`
		if err := p.db.QueryRow(p.ctx, query).Scan(&left); err != nil || left != "truejournal" {
			t.Errorf("got %q (%v), want no table and the journal's checkpoint only", left, err)
		}
	}
}
