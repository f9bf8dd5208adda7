package testenv_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestServersKeepAcknowledgedWritesOverAKill kills and restarts both servers, and checks
// that they have kept the writes that they had acknowledged.
func TestServersKeepAcknowledgedWritesOverAKill(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := testenv.Redis(t)
	client := testenv.RedisClient(t, r)
	if err := client.Set(ctx, "kept", "yes", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Get(ctx, "kept").Result(); got != "yes" {
		t.Errorf("after kill and start Redis has %q (%v), want yes", got, err)
	}

	p := testenv.PostgresServer(t)
	execute(t, p.URL(), "CREATE TABLE kept ()")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	execute(t, p.URL(), "SELECT FROM kept")
}

// TestSchemasAreIndependent creates a table of the same name in two schemas.
func TestSchemasAreIndependent(t *testing.T) {
	t.Parallel()
	for range 2 {
		execute(t, testenv.Postgres(t), "CREATE TABLE mine ()")
	}
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Error(err)
	}
}
