package migrations_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/migrations"
)

// Versions of the schema: without pools, and with them.
const (
	withoutPools = 7
	withPools    = 11
)

// fillWithoutPools fills a schema of version 7 as the build of that version does: a
// journal with two partitions, of which the first is detached, dead letters, and read
// tables.
func fillWithoutPools(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	const fill = `
		DROP TABLE events_1;
		CREATE TABLE events_1 PARTITION OF events (CONSTRAINT part_bounds CHECK (seq >= 1 AND seq < 101)) FOR VALUES FROM (1) TO (101);
		CREATE TABLE events_101 PARTITION OF events (CONSTRAINT part_bounds CHECK (seq >= 101 AND seq < 301)) FOR VALUES FROM (101) TO (301);
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', seq, gen_random_uuid(), 'HOLD_CREATED', 'shirt', 'h' || seq, '{"sku":"shirt"}', '{}', now()
		FROM generate_series(1, 250) AS seq;
		ALTER TABLE events DETACH PARTITION events_1;
		INSERT INTO detached_parts (part, first_seq, last_seq, events, digest) VALUES ('events_1', 1, 100, 100, 'd');
		INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', 250);
		INSERT INTO dead_letters (source, message_key, sequence_key, pool, event_type, raw, metadata, error, stack, attempts, status)
		VALUES ('journal', '1-0', '', 'main', '', '', '{}', 'bad', '', 1, 'parked');
		CREATE TABLE stock_levels (sku text PRIMARY KEY, available bigint, held bigint, sold bigint);
		INSERT INTO stock_levels VALUES ('shirt', 1, 2, 3)`
	if _, err := conn.Exec(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
}

// files returns the files that store the tables of the journal. They stay the same unless
// a table is rewritten.
func files(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	return text(t, conn, `
		SELECT string_agg(relname || ' ' || pg_relation_filenode(oid), ', ' ORDER BY relname) FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relname IN ('events_1', 'events_101')`)
}

// TestDividingTheJournalByPoolKeepsItsRows migrates a schema with events, dead letters
// and a detached partition from version 7 up, down and up again. It checks that no row is
// lost or moved, that the schema works for two pools, and that a grant is kept.
func TestDividingTheJournalByPoolKeepsItsRows(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	migrateTo(t, url, withoutPools)
	fillWithoutPools(t, conn)
	if _, err := conn.Exec(t.Context(), `GRANT SELECT ON events TO PUBLIC`); err != nil {
		t.Fatal(err)
	}
	rows := text(t, conn, journalRows)
	stored := files(t, conn)
	const letters = `SELECT string_agg(source || pool || message_key || status, ' ') FROM dead_letters`
	wantLetters := text(t, conn, letters)
	wantState := func(state string, want map[string]string) {
		t.Helper()
		want[journalRows] = rows
		want[letters] = wantLetters
		want[`SELECT count(*)::text FROM processed_events`] = "150"
		want[`SELECT part || first_seq || '-' || last_seq || digest FROM detached_parts`] = "events_11-100d"
		for query, value := range want {
			if got := text(t, conn, query); got != value {
				t.Errorf("%s: %s: got %s, want %s", state, query, got, value)
			}
		}
		if got := files(t, conn); got != stored {
			t.Errorf("%s: the tables are stored in %s, want %s: no table is rewritten", state, got, stored)
		}
	}

	const partitions = `
		SELECT string_agg(inhrelid::regclass || ' ' || pg_get_expr(relpartbound, inhrelid), ', ')
		FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind IN ('r', 'p') AND inhparent = `
	const (
		ofEvents = partitions + `'events'::regclass`
		ofMain   = partitions + `'events_main'::regclass`
		granted  = `SELECT has_table_privilege('pg_monitor', 'events', 'SELECT')::text`
	)
	upState := func() map[string]string {
		return map[string]string{
			ofEvents:                             "events_main FOR VALUES IN ('main')",
			ofMain:                               "events_101 FOR VALUES FROM ('101') TO ('301')",
			constraintsOf + `'events'::regclass`: "events_pkey seq_from_one",
			constraintsOf + `'events_main'::regclass`: "events_main_pkey seq_from_one",
			`SELECT pool FROM detached_parts`:         "main",
			granted:                                   "true",
		}
	}
	migrateTo(t, url, withPools)
	wantState("up", upState())

	migrateTo(t, url, withoutPools)
	wantState("down", map[string]string{
		ofEvents:                                   "events_101 FOR VALUES FROM ('101') TO ('301')",
		constraintsOf + `'events'::regclass`:       "events_pkey seq_from_one",
		constraintsOf + `'dead_letters'::regclass`: "attempts_positive dead_letters_pkey one_letter_per_message status_known",
		constraintsOf + `'stock_levels'::regclass`: "stock_levels_pkey",
	})
	migrateTo(t, url, withPools)
	wantState("up again", upState())

	const secondPool = `
		CREATE TABLE events_eu (LIKE events INCLUDING ALL) PARTITION BY RANGE (seq);
		ALTER TABLE events ATTACH PARTITION events_eu FOR VALUES IN ('eu');
		CREATE TABLE events_eu_1 PARTITION OF events_eu FOR VALUES FROM (1) TO (101);
		INSERT INTO events SELECT 'eu', 1, gen_random_uuid(), type, sku, hold_id, payload, metadata, at FROM events LIMIT 1;
		INSERT INTO dead_letters (source, message_key, sequence_key, pool, event_type, raw, metadata, error, stack, attempts, status)
		SELECT source, message_key, sequence_key, 'eu', event_type, raw, metadata, error, stack, attempts, status FROM dead_letters`
	if _, err := conn.Exec(t.Context(), secondPool); err != nil {
		t.Errorf("a second pool: %v", err)
	}
	err := migrations.Down(t.Context(), url)
	if err == nil || !strings.Contains(err.Error(), "of the pool eu") {
		t.Errorf("down with a second pool: got %v, want it refused", err)
	}
	version, dirty, err := migrations.Version(t.Context(), conn)
	if got, want := fmt.Sprint(version, dirty, err), fmt.Sprint(withPools, " false <nil>"); got != want {
		t.Errorf("version after the refused migration: got %s, want %s", got, want)
	}
}

// TestMigrationWaitsForLongReadersWithoutBlockingOthers keeps a transaction open that
// reads the journal, as a dump does. Other readers and the journal's Writer go on while
// the migration waits, and it completes once the long reader has ended.
func TestMigrationWaitsForLongReadersWithoutBlockingOthers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	migrateTo(t, url, withoutPools)
	fillWithoutPools(t, conn)
	dump, err := connect(t, url).Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dump.Exec(ctx, `SELECT FROM events LIMIT 1`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- migrations.Up(ctx, url) }()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		waits := text(t, conn, `
			SELECT count(*)::text FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 'events'::regclass`)
		return waits != "0", "the migration does not wait for the lock"
	})
	for seq := 251; seq <= 270; seq++ {
		began := time.Now()
		const write = `
			INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
			SELECT 'main', $1, gen_random_uuid(), type, sku, hold_id, payload, metadata, at FROM events WHERE seq = 101`
		if _, err := conn.Exec(ctx, write, seq); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a write beside the waiting migration took %s, want some 200 ms at most", took)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the migration ended (%v) before the long reader", err)
	default:
	}
	if err := dump.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := text(t, conn, `SELECT count(*)::text FROM events_main`); got != "170" {
		t.Errorf("events: got %s, want 170", got)
	}
}

// TestFailedMigrationCanBeRepeated checks that a migration that Postgres rolls back
// leaves the schema at the version before it, so that `migrate up` works once the cause
// is gone. Here the cause is an event of another pool.
func TestFailedMigrationCanBeRepeated(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	migrateTo(t, url, withoutPools)
	fillWithoutPools(t, conn)
	if _, err := conn.Exec(t.Context(), `UPDATE events SET pool = 'eu' WHERE seq = 120`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := migrations.Up(t.Context(), url)
		if err == nil || !strings.Contains(err.Error(), "pool_is_main") {
			t.Errorf("up with another pool's event: got %v, want the violated constraint", err)
		}
		version, dirty, err := migrations.Version(t.Context(), conn)
		if got, want := fmt.Sprint(version, dirty, err), "9 false <nil>"; got != want {
			t.Errorf("version after the failure: got %s, want %s", got, want)
		}
	}
	if _, err := conn.Exec(t.Context(), `UPDATE events SET pool = 'main' WHERE seq = 120`); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Error(err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
}
