package projections

import (
	"strings"
	"sync"
	"testing"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestCreateTablesKeepsExistingTables creates tables from eight sessions at once and then
// again, and checks that a second call keeps rows and checkpoint.
func TestCreateTablesKeepsExistingTables(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`DROP TABLE holds, orders, stock_levels`)
	var all sync.WaitGroup
	for range 8 {
		conn := testenv.Connect(t, f.config)
		all.Go(func() {
			if err := CreateTables(f.ctx, conn, BuiltIn()...); err != nil {
				t.Errorf("from one of eight sessions: %v", err)
			}
		})
	}
	all.Wait()
	f.exec(`INSERT INTO stock_levels VALUES ('shirt', 1, 0, 0, 'main')`)
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('stock_levels', 'main', 7)`)
	if err := CreateTables(f.ctx, f.db, BuiltIn()...); err != nil {
		t.Error(err)
	}
	f.wantRows("stock_levels", "(shirt,1,0,0,main)")
	f.wantCheckpoint("stock_levels", 7)
}

func TestProjectionStartsAgainAfterItsTablesWereDropped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(created("a", 1), created("b", 1))
	projection := f.notes(neverFails)
	_, stop := f.run(0, projection)
	f.await(projection)
	stop()
	f.exec(`DROP TABLE notes`)
	f.journal(created("c", 1))
	f.run(0, projection)
	f.await(projection)
	f.wantRows("notes", "(1,a)\n(2,b)\n(3,c)")
}

// TestCreateTablesRefusesIncompleteTables checks that a projection with only some of its
// tables is refused with advice to rebuild it, and that a Schema must create every table
// in Tables.
func TestCreateTablesRefusesIncompleteTables(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	projection := f.notes(neverFails)
	if err := CreateTables(f.ctx, f.db, projection); err != nil {
		t.Fatal(err)
	}
	projection.Tables = []string{"notes", "more"}
	err := CreateTables(f.ctx, f.db, projection)
	if err == nil || !strings.Contains(err.Error(), "some of its tables are missing (more)") {
		t.Errorf("with one table of two: got error %v, want one that names the missing table", err)
	}
	if err == nil || !strings.Contains(err.Error(), "rebuild notes") {
		t.Errorf("with one table of two: got error %v, want the command that rebuilds", err)
	}
	f.exec(`DROP TABLE notes`)
	err = CreateTables(f.ctx, f.db, projection)
	if err == nil || !strings.Contains(err.Error(), "does not create more") {
		t.Errorf("with a Schema that lacks a table: got error %v, want one that names the table", err)
	}
}

func TestDropTablesDeletesCheckpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 7), ('journal', 'main', 9)`)
	for range 2 { // dropping again must work
		if err := DropTables(f.ctx, f.db, BuiltIn()...); err != nil {
			t.Fatal(err)
		}
		if got := f.texts(`SELECT (to_regclass('holds') IS NULL)::text`); got != "true" {
			t.Error("the table holds still exists")
		}
		if got := f.texts(`SELECT projection FROM checkpoints`); got != "journal" {
			t.Errorf("got checkpoints of %q, want only the journal's", got)
		}
	}
}
