package rebuild

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// TestSecondRebuildIsRefused checks that one rebuild runs at a time, that DropOld and
// RestoreOld are refused meanwhile, and that a rebuild is refused while old tables are
// kept.
func TestSecondRebuildIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.BuiltIn()...)
	job, err := Begin(f.ctx, f.rebuildConfig(), projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	_, err = Begin(f.ctx, f.rebuildConfig(), projections.Orders())
	if !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("a second rebuild: got %v, want ErrRebuildRunning", err)
	}
	err = DropOld(f.ctx, f.rebuildConfig(), projections.Orders())
	if !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("drop-old during a rebuild: got %v, want ErrRebuildRunning", err)
	}
	_, err = RestoreOld(f.ctx, f.rebuildConfig(), projections.Orders())
	if !errors.Is(err, ErrRebuildRunning) {
		t.Errorf("restore-old during a rebuild: got %v, want ErrRebuildRunning", err)
	}
	if got := f.wantRuns("during the rebuild", Running)[0].ID; got != job.ID() {
		t.Errorf("got run %d, want %d", got, job.ID())
	}
	if _, err := job.Run(f.ctx); err != nil {
		t.Error(err)
	}
	_, err = Begin(f.ctx, f.rebuildConfig(), projections.Holds())
	if !errors.Is(err, ErrOldTablesKept) {
		t.Fatalf("a rebuild while old tables are kept: got %v, want ErrOldTablesKept", err)
	}
	if !strings.Contains(err.Error(), "drop-old holds") {
		t.Errorf("a rebuild while old tables are kept: got %v, want the command that drops them in it", err)
	}
	if _, err := f.rebuild(f.rebuildConfig(), projections.Orders()); err != nil {
		t.Errorf("a rebuild after the first one: %v", err)
	}
}

// TestRebuildWouldLoseOtherPools checks that a rebuild is refused while another pool has
// rows in the same tables, since the swap would drop them.
func TestRebuildWouldLoseOtherPools(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.BuiltIn()...)
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'eu', 7)`)
	_, err := Begin(f.ctx, f.rebuildConfig(), projections.Holds())
	if !errors.Is(err, ErrOtherPools) || !strings.Contains(err.Error(), "of eu") {
		t.Errorf("got %v, want ErrOtherPools that names eu", err)
	}
	if _, err := f.rebuild(f.rebuildConfig(), projections.Orders()); err != nil {
		t.Errorf("a projection without other pools: %v", err)
	}
}

// TestIncompleteJournalIsRefused checks that Begin fails with ErrHole if the journal
// lacks its first events, its last event, or one between.
func TestIncompleteJournalIsRefused(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"a hole":       `DELETE FROM events WHERE seq = 5`,
		"no beginning": `DELETE FROM events WHERE seq < 5`,
		"no end":       `DELETE FROM events WHERE seq = (SELECT max(seq) FROM events)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEvents(holdEvents("a", 10)...)
			f.project(projections.Holds())
			f.exec(damage)
			_, err := Begin(f.ctx, f.rebuildConfig(), projections.Holds())
			if !errors.Is(err, journal.ErrHole) {
				t.Errorf("got %v, want ErrHole", err)
			}
			f.wantNoShadows(projections.Holds())
		})
	}
}

// TestHoleDuringReplayFailsTheRebuild deletes an event after Begin has checked the
// journal. The replay fails with ErrHole and the live table is unchanged.
func TestHoleDuringReplayFailsTheRebuild(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.Holds())
	before := f.tableText(f.liveSchema(), "holds")
	job, err := Begin(f.ctx, f.rebuildConfig(), projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	f.exec(`DELETE FROM events WHERE seq = 5`)
	if _, err := job.Run(f.ctx); !errors.Is(err, journal.ErrHole) {
		t.Errorf("got %v, want ErrHole", err)
	}
	if f.tableText(f.liveSchema(), "holds") != before {
		t.Error("a failed rebuild changed the live table")
	}
	f.wantNoShadows(projections.Holds())
}

// TestDependentsAreRefused checks that Begin names each kind of object that depends on a
// live table, and succeeds once the object is dropped.
func TestDependentsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.Holds())
	objects := []struct{ name, create, drop string }{
		{
			name:   "view seen",
			create: `CREATE VIEW seen AS SELECT * FROM holds`,
			drop:   `DROP VIEW seen`,
		},
		{
			name:   "foreign key gift_hold of gifts",
			create: `CREATE TABLE gifts (hold_id text CONSTRAINT gift_hold REFERENCES holds)`,
			drop:   `DROP TABLE gifts`,
		},
		{
			name: "trigger watch on holds",
			create: `
				CREATE TRIGGER watch BEFORE UPDATE ON holds
				FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
			drop: `DROP TRIGGER watch ON holds`,
		},
		{
			name:   "policy own on holds",
			create: `CREATE POLICY own ON holds`,
			drop:   `DROP POLICY own ON holds`,
		},
		{
			name: "function how_many()",
			create: `
				CREATE FUNCTION how_many() RETURNS bigint
				BEGIN ATOMIC SELECT count(*) FROM holds; END`,
			drop: `DROP FUNCTION how_many`,
		},
		{
			name:   "table heirs, which inherits from holds",
			create: `CREATE TABLE heirs () INHERITS (holds)`,
			drop:   `DROP TABLE heirs`,
		},
	}
	for _, object := range objects {
		f.exec(object.create)
		_, err := Begin(f.ctx, f.rebuildConfig(), projections.Holds())
		if !errors.Is(err, ErrDependents) {
			t.Fatalf("with a %s: got %v, want ErrDependents", object.name, err)
		}
		if !strings.Contains(err.Error(), object.name+";") {
			t.Errorf("with a %s: got %v, want its name in the error", object.name, err)
		}
		f.exec(object.drop)
	}
	if _, err := f.rebuild(f.rebuildConfig(), projections.Holds()); err != nil {
		t.Errorf("without dependents: %v", err)
	}
}

// TestNewTableKeepsOwnerAndGrants checks that the new table has the owner and the grants
// of the old one, on the table and on its columns.
func TestNewTableKeepsOwnerAndGrants(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.Holds())
	// Roles belong to the whole server, so their names carry the name of the test's
	// schema.
	owner := f.liveSchema() + "_owner"
	reader := f.liveSchema() + "_reader"
	for _, role := range []string{owner, reader} {
		asSuperuser(t, `CREATE ROLE `+role+`; GRANT `+role+` TO app`)
		t.Cleanup(func() { asSuperuser(t, `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role) })
	}
	f.exec(`GRANT CREATE ON SCHEMA ` + f.liveSchema() + ` TO ` + owner)
	f.exec(`GRANT USAGE ON SCHEMA ` + f.liveSchema() + ` TO ` + reader)
	f.exec(`GRANT SELECT ON holds TO ` + reader)
	f.exec(`GRANT UPDATE (status) ON holds TO ` + reader + ` WITH GRANT OPTION`)
	f.exec(`GRANT SELECT ON holds TO PUBLIC`)
	f.exec(`ALTER TABLE holds OWNER TO ` + owner)
	const rights = `
		SELECT relowner::regrole || relacl::text
			|| (SELECT string_agg(attname || attacl::text, ' ') FROM pg_attribute WHERE attrelid = c.oid)
		FROM pg_class c WHERE oid = 'holds'::regclass`
	before := f.queryText(rights)
	if len(before) < 20 {
		t.Fatalf("rights of the old table: got only %q", before)
	}
	if _, err := f.rebuild(f.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	// The swap grants as the owner, and the order of the grants may differ.
	if after := f.queryText(rights); sortedBytes(after) != sortedBytes(before) {
		t.Errorf("rights of the new table: got %s, want %s", after, before)
	}
	session := testenv.Connect(t, f.postgres)
	if _, err := session.Exec(f.ctx, `SET ROLE `+reader+`; SELECT FROM holds`); err != nil {
		t.Errorf("the reader cannot read the new table: %v", err)
	}
}

// sortedBytes returns the bytes of text in sorted order, to compare access lists whose
// entries may be in another order.
func sortedBytes(text string) string {
	sorted := []byte(text)
	slices.Sort(sorted)
	return string(sorted)
}

// asSuperuser runs statements that the role of the service may not run.
func asSuperuser(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), testenv.Superuser(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}
