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
	const want = "audit_holds audit_hours audit_skus audits checkpoints dead_letters dead_letters_id_seq detached_parts events events_1 pools processed_events rebuilds rebuilds_id_seq sellers"
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

// TestCheckRefusesOtherVersions checks that an older, a newer and a half-migrated schema
// are refused, each with its own advice.
func TestCheckRefusesOtherVersions(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	conn := connect(t, url)
	if err := migrations.Up(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	for set, want := range map[string]string{
		"version = 1": "this build needs", "version = 999": "use a newer build", "dirty = true": "half done",
	} {
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "UPDATE schema_migrations SET "+set); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Check(t.Context(), tx); !errors.Is(err, migrations.ErrSchema) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want ErrSchema with %q", set, err, want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
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
