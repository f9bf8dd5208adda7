package migrations_test

import (
	"os"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	driver "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stockstream/stockstream/internal/testenv"
)

// migrateTo migrates a database to a version, up or down.
func migrateTo(t *testing.T, url string, version uint) {
	t.Helper()
	db := stdlib.OpenDB(*testenv.ParseURL(t, url))
	src, err := iofs.New(os.DirFS("."), ".")
	if err != nil {
		t.Fatal(err)
	}
	dst, err := driver.WithInstance(db, &driver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithInstance("files", src, "postgres", dst)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // it holds only test data
	if err := m.Migrate(version); err != nil {
		t.Fatal(err)
	}
}

// text returns the single text value of a query.
func text(t *testing.T, conn *pgx.Conn, query string) (value string) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return value
}

const (
	journalRows   = `SELECT string_agg(e::text, E'\n' ORDER BY pool, seq) FROM events e`
	constraintsOf = `SELECT coalesce(string_agg(conname, ' ' ORDER BY conname), '') FROM pg_constraint WHERE contype IN ('p', 'u', 'c') AND conrelid = `
)

// TestPartitioningTheJournalKeepsItsRows checks that migration 4 keeps every event of a
// journal and does not rewrite its table, and that the migration down merges the
// partitions without losing an event.
func TestPartitioningTheJournalKeepsItsRows(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	migrateTo(t, url, 3)
	_, err := conn.Exec(t.Context(), `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT pool, seq, gen_random_uuid(), 'STOCK_ADJUSTED', 'shirt', '', '{"sku":"shirt","delta":1,"reason":"r"}', '{}', now()
		FROM unnest('{main,eu}'::text[]) AS pool, generate_series(1999990, 2000010) AS seq`)
	if err != nil {
		t.Fatal(err)
	}
	before := text(t, conn, journalRows)
	file := text(t, conn, `SELECT pg_relation_filenode('events')::text`)

	migrateTo(t, url, 4)
	const journalConstraints = constraintsOf + `'events'::regclass`
	for query, want := range map[string]string{
		journalRows: before,
		`SELECT pg_relation_filenode('events_1')::text`:                                        file,
		`SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'events_1'::regclass`: "FOR VALUES FROM ('1') TO ('4000001')",
		`SELECT count(*)::text FROM processed_events`:                                          "42",
		journalConstraints:                     "events_pkey seq_from_one",
		constraintsOf + `'events_1'::regclass`: "events_1_event_id_once events_1_pkey part_bounds seq_from_one",
	} {
		if got := text(t, conn, query); got != want {
			t.Errorf("partitioned: %s: got %s, want %s", query, got, want)
		}
	}

	// The migration down must also keep the events of a second partition.
	_, err = conn.Exec(t.Context(), `
		CREATE TABLE events_4000001 (LIKE events INCLUDING ALL);
		ALTER TABLE events ATTACH PARTITION events_4000001 FOR VALUES FROM (4000001) TO (6000001);
		INSERT INTO events SELECT pool, 4000001, gen_random_uuid(), type, sku, hold_id, payload, metadata, at FROM events WHERE seq = 2000010`)
	if err != nil {
		t.Fatal(err)
	}
	partitioned := text(t, conn, journalRows)
	migrateTo(t, url, 3)
	for query, want := range map[string]string{
		journalRows: partitioned,
		`SELECT relkind::text FROM pg_class WHERE oid = 'events'::regclass`: "r",
		`SELECT count(*)::text FROM processed_events`:                       "44",
		journalConstraints: "event_id_once events_pkey seq_from_one",
	} {
		if got := text(t, conn, query); got != want {
			t.Errorf("merged: %s: got %s, want %s", query, got, want)
		}
	}
	migrateTo(t, url, 4)
	if got := text(t, conn, journalRows); got != partitioned {
		t.Errorf("partitioned again: got %s, want %s", got, partitioned)
	}
}
