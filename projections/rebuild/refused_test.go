package rebuild

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// TestSecondRunner holds that one rebuild runs at a time, whoever runs it, and that the way back waits for it too.
func TestSecondRunner(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.BuiltIn()...)
	job, err := Begin(p.ctx, p.rebuildConfig(), projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Begin(p.ctx, p.rebuildConfig(), projections.Orders()); !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("a second rebuild: got %v, want ErrBusy", err)
	}
	if err := DropOld(p.ctx, p.rebuildConfig(), projections.Orders()); !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("drop-old during a rebuild: got %v, want ErrBusy", err)
	}
	if _, err := RestoreOld(p.ctx, p.rebuildConfig(), projections.Orders()); !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("restore-old during a rebuild: got %v, want ErrBusy", err)
	}
	if runs, err := List(p.ctx, p.db, 10); err != nil || len(runs) != 1 || runs[0].State != Running || runs[0].ID != job.ID() {
		t.Errorf("runs: got %+v (%v), want the one that runs", runs, err)
	}
	if _, err := job.Run(p.ctx); err != nil {
		t.Error(err)
	}
	if _, err := Begin(p.ctx, p.rebuildConfig(), projections.Holds()); !errors.Is(err, ErrOldTablesKept) || !strings.Contains(err.Error(), "drop-old holds") {
		t.Errorf("a rebuild over old tables: got %v, want ErrOldTables and what to do", err)
	}
	if _, err := p.rebuild(p.rebuildConfig(), projections.Orders()); err != nil {
		t.Errorf("a rebuild after it: %v", err)
	}
}

// TestHole holds that a journal which is not whole is not replayed.
func TestHole(t *testing.T) {
	t.Parallel()
	for name, breaking := range map[string]string{
		"a hole":       `DELETE FROM events WHERE seq = 5`,
		"no beginning": `DELETE FROM events WHERE seq < 5`,
		"no end":       `DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newFixture(t)
			p.journal(holdEvents("a", 10)...)
			p.project(projections.Holds())
			p.exec(breaking)
			if _, err := Begin(p.ctx, p.rebuildConfig(), projections.Holds()); !errors.Is(err, events.ErrHole) {
				t.Errorf("got %v, want ErrHole", err)
			}
			p.wantNoShadows(projections.Holds())
		})
	}
}

// TestHoleDuringReplay holds that an event which is gone after the look is found, too.
func TestHoleDuringReplay(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.Holds())
	before := p.tableText(p.liveSchema(), "holds")
	job, err := Begin(p.ctx, p.rebuildConfig(), projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	p.exec(`DELETE FROM events WHERE seq = 5`)
	if _, err := job.Run(p.ctx); !errors.Is(err, events.ErrHole) {
		t.Errorf("got %v, want ErrHole", err)
	}
	if p.tableText(p.liveSchema(), "holds") != before {
		t.Error("the live table was changed")
	}
	p.wantNoShadows(projections.Holds())
}

// TestDependents holds that what hangs on the live tables is named, and that a rebuild waits until it is gone.
func TestDependents(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.Holds())
	objects := []struct{ name, make, drop string }{
		{"view seen", `CREATE VIEW seen AS SELECT * FROM holds`, `DROP VIEW seen`},
		{"foreign key gift_hold of gifts", `CREATE TABLE gifts (hold_id text CONSTRAINT gift_hold REFERENCES holds)`, `DROP TABLE gifts`},
		{"trigger watch on holds", `CREATE TRIGGER watch BEFORE UPDATE ON holds FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`, `DROP TRIGGER watch ON holds`},
		{"policy own on holds", `CREATE POLICY own ON holds`, `DROP POLICY own ON holds`},
		{"function how_many()", `CREATE FUNCTION how_many() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM holds; END`, `DROP FUNCTION how_many`},
		{"table heirs, which inherits from holds", `CREATE TABLE heirs () INHERITS (holds)`, `DROP TABLE heirs`},
	}
	for _, object := range objects {
		p.exec(object.make)
		if _, err := Begin(p.ctx, p.rebuildConfig(), projections.Holds()); !errors.Is(err, ErrDependents) || !strings.Contains(err.Error(), object.name+";") {
			t.Errorf("with a %s: got %v, want ErrDependents that names it", object.name, err)
		}
		p.exec(object.drop)
	}
	if _, err := p.rebuild(p.rebuildConfig(), projections.Holds()); err != nil {
		t.Errorf("without any of them: %v", err)
	}
}

// TestRights holds that who could read the old table can read the new one, and that the owner stays.
func TestRights(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.Holds())
	owner, reader := p.liveSchema()+"_owner", p.liveSchema()+"_reader" // roles belong to the whole server
	for _, role := range []string{owner, reader} {
		p.exec(`CREATE ROLE ` + role)
		t.Cleanup(func() {
			conn, err := pgx.ConnectConfig(context.Background(), p.postgres)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			if _, err := conn.Exec(context.Background(), `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role); err != nil {
				t.Error(err)
			}
		})
	}
	p.exec(`GRANT CREATE ON SCHEMA ` + p.liveSchema() + ` TO ` + owner)
	p.exec(`GRANT USAGE ON SCHEMA ` + p.liveSchema() + ` TO ` + reader)
	p.exec(`GRANT SELECT ON holds TO ` + reader)
	p.exec(`GRANT UPDATE (status) ON holds TO ` + reader + ` WITH GRANT OPTION`)
	p.exec(`GRANT SELECT ON holds TO PUBLIC`)
	p.exec(`ALTER TABLE holds OWNER TO ` + owner)
	const rights = `SELECT relowner::regrole || relacl::text || (SELECT string_agg(attname || attacl::text, ' ') FROM pg_attribute WHERE attrelid = c.oid) FROM pg_class c WHERE oid = 'holds'::regclass`
	before := p.queryText(rights)
	if _, err := p.rebuild(p.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	// Grants are the owner's own now, whoever had made them.
	if after := p.queryText(rights); len(before) < 20 || sortedText(after) != sortedText(before) {
		t.Errorf("got %s, want %s", after, before)
	}
	if _, err := testenv.Connect(t, p.postgres).Exec(p.ctx, `SET ROLE `+reader+`; SELECT FROM holds`); err != nil {
		t.Errorf("the reader cannot read: %v", err)
	}
}

// sortedText tells whether two access lists are the same but for their order.
func sortedText(s string) string {
	letters := []byte(s)
	for i := range letters {
		for k := i + 1; k < len(letters); k++ {
			if letters[k] < letters[i] {
				letters[i], letters[k] = letters[k], letters[i]
			}
		}
	}
	return string(letters)
}
