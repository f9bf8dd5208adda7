package migrations_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	return testenv.Connect(t, testenv.ParseURL(t, url))
}

// objects lists the relations in the schema, except golang-migrate's own table.
func objects(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var text string
	err := conn.QueryRow(t.Context(), `
		SELECT coalesce(string_agg(relname, ' ' ORDER BY relname), '') FROM pg_class
		WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'S') AND relname <> 'schema_migrations'`).Scan(&text)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestUpAndDownCanBeRepeated migrates up twice at once and once more, then down, and up
// again.
func TestUpAndDownCanBeRepeated(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	if err := migrations.Check(t.Context(), conn); !errors.Is(err, migrations.ErrSchema) ||
		!strings.Contains(err.Error(), "migrate up") {
		t.Errorf("an empty database: got %v, want ErrSchema with the advice to run migrate up", err)
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			if err := migrations.Up(t.Context(), url); err != nil {
				t.Errorf("up, together: %v", err)
			}
		})
	}
	both.Wait()
	const want = "audit_holds audit_hours audit_skus audits checkpoints dead_letters dead_letters_id_seq detached_parts events events_1 events_main memory_promises pools processed_events rebuilds rebuilds_id_seq sellers"
	for range 2 {
		if err := migrations.Up(t.Context(), url); err != nil {
			t.Fatalf("up again: %v", err)
		}
		if err := migrations.Check(t.Context(), conn); err != nil {
			t.Errorf("up: %v", err)
		}
		if got := objects(t, conn); got != want {
			t.Errorf("up: got %s, want %s", got, want)
		}
		if err := migrations.Down(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		if got := objects(t, conn); got != "" {
			t.Errorf("down left %s", got)
		}
	}
}

// TestOtherVersionsAreRefused checks that a newer and a half-migrated schema are refused
// by Check, Up and Down in the same words, each with its own advice, and that Check
// refuses an older one.
func TestOtherVersionsAreRefused(t *testing.T) { //nolint:tparallel // the cases share a schema
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	const reset = `UPDATE schema_migrations SET version = $1, dirty = false`
	for set, want := range map[string]string{
		"version = 1":   "this build needs",
		"version = 999": "use a newer build",
		"dirty = true":  "half done",
	} {
		t.Run(set, func(t *testing.T) {
			if _, err := conn.Exec(t.Context(), reset, migrations.Latest); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(t.Context(), "UPDATE schema_migrations SET "+set); err != nil {
				t.Fatal(err)
			}
			checked := migrations.Check(t.Context(), conn)
			if !errors.Is(checked, migrations.ErrSchema) || !strings.Contains(checked.Error(), want) {
				t.Fatalf("check: got %v, want ErrSchema with %q", checked, want)
			}
			if set == "version = 1" {
				return // Up and Down may migrate an older schema
			}
			for name, migrate := range map[string]func(context.Context, string) error{
				"up":   migrations.Up,
				"down": migrations.Down,
			} {
				err := migrate(t.Context(), url)
				if err == nil || err.Error() != checked.Error() {
					t.Errorf("%s: got %v, want the error of check: %v", name, err, checked)
				}
			}
		})
	}
}

// TestTablesInAnotherSchemaAreNotMadeTwice checks that Check and Up name the schema that
// has the tables, if the URL does not, and create no second set of them in public.
func TestTablesInAnotherSchemaAreNotMadeTwice(t *testing.T) {
	t.Parallel()
	url := testenv.PostgresServer(t).URL()
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), `CREATE SCHEMA app`); err != nil {
		t.Fatal(err)
	}
	inApp := url + "&search_path=app"
	if err := migrations.Up(t.Context(), inApp); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"check": migrations.Check(t.Context(), conn),
		"up":    migrations.Up(t.Context(), url),
	} {
		const want = "public has no tables of StockStream, but these schemas have: app"
		if !errors.Is(err, migrations.ErrSchema) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want ErrSchema with %q", name, err, want)
		}
	}
	if err := migrations.Check(t.Context(), connect(t, inApp)); err != nil {
		t.Errorf("with the schema in the URL: %v", err)
	}
	if got := objects(t, conn); got != "" {
		t.Errorf("public has the tables %s, want none", got)
	}
	if err := migrations.Up(t.Context(), url+"&search_path=nosuch"); err == nil ||
		!strings.Contains(err.Error(), "does not exist: create it") {
		t.Errorf("up in a schema that does not exist: got %v, want the advice to create it", err)
	}
}

// TestUpFailsSoonWithoutADatabase checks that Up returns an error, and does not hang, if
// the database cannot be reached.
func TestUpFailsSoonWithoutADatabase(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := migrations.Up(ctx, "postgres://app@127.0.0.1:1/inventory"); err == nil || ctx.Err() != nil {
		t.Errorf("got %v, want a refused connection", err)
	}
	if err := migrations.Up(ctx, "postgres://%zz"); err == nil {
		t.Error("an invalid URL: got nil, want an error")
	}
}
