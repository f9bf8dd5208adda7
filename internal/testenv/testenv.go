// Package testenv gives tests real servers: a Redis (alone, as a Cluster or with
// Sentinels) for each test, and a schema for each test on a Postgres that all tests of a
// package share. If a server is not installed, the test fails; it is not skipped.
//
// With STOCKSTREAM_TEST_KEEP=1, a failed test keeps its servers running so that a person
// can look into them (see keep.go).
package testenv

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/migrations"
)

// Main runs a package's tests and stops the Postgres that they share. It fails if
// goroutines are left running.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared Postgres:", err)
		code = max(code, 1)
	}
	if code == 0 {
		if err := goleak.Find(options...); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are still running after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

const stopTimeout = 10 * time.Second

// Redis starts a Redis server for one test.
func Redis(t testing.TB, args ...string) *local.Redis {
	t.Helper()
	r, err := local.StartRedis(context.Background(), local.RedisOptions{Dir: t.TempDir(), Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, r.Stop) })
	keepIfFailed(t, "redis-cli -u "+r.URL())
	return r
}

// RedisCluster starts a Redis Cluster of three masters and three replicas for one test.
func RedisCluster(t testing.TB) *local.Cluster {
	t.Helper()
	c, err := local.StartCluster(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, c.Stop) })
	keepIfFailed(t, "redis-cli -c -u "+c.Masters[0].URL())
	return c
}

// RedisSentinel starts a master, its replicas and three Sentinels for one test.
func RedisSentinel(t testing.TB, replicas int) *local.Sentinel {
	t.Helper()
	s, err := local.StartSentinel(context.Background(), t.TempDir(), replicas)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, s.Stop) })
	for _, server := range slices.Concat(s.Nodes, s.Sentinels) {
		keepIfFailed(t, "redis-cli -u "+server.URL())
	}
	return s
}

func stopServer(t testing.TB, stop func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := stop(ctx); err != nil {
		t.Error(err)
	}
}

// RedisClient returns a client that is closed when the test ends.
func RedisClient(t testing.TB, r *local.Redis) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// shared is the Postgres that all tests of a package share. The first test that needs it
// starts it.
var shared sharedPostgres

type sharedPostgres struct {
	once   sync.Once
	server *local.Postgres
	dir    string
	err    error
}

func (s *sharedPostgres) start() (*local.Postgres, error) {
	s.once.Do(func() {
		if s.dir, s.err = local.TempDir("stockstream-test-"); s.err != nil {
			return
		}
		s.server, s.err = local.StartPostgres(context.Background(), local.PostgresOptions{
			Dir: filepath.Join(s.dir, "postgres"),
			// No test cuts the power, so fsync would only cost time.
			Settings: map[string]string{"fsync": "off", "max_connections": "300"},
		})
	})
	return s.server, s.err
}

func (s *sharedPostgres) stop() error {
	if s.dir == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var err error
	if s.server != nil {
		err = s.server.Stop(ctx)
	}
	_ = os.RemoveAll(s.dir)
	return err
}

var schemas atomic.Int64

// Postgres returns the URL of a new, empty schema, which is dropped when the test ends.
func Postgres(t testing.TB) string {
	t.Helper()
	server, err := shared.start()
	if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprintf("test_%d", schemas.Add(1))
	execute(t, server.URL(), "CREATE SCHEMA "+schema)
	t.Cleanup(func() { execute(t, server.URL(), "DROP SCHEMA "+schema+" CASCADE") })
	keepIfFailed(t, "psql '"+server.URL()+"&options=-csearch_path%3D"+schema+"'")
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

// Schema returns the URL of a new schema at the latest version, which is dropped when the
// test ends.
func Schema(t testing.TB) string {
	t.Helper()
	url := Postgres(t)
	Migrate(t, url)
	return url
}

// Migrate migrates a database to the latest version of the schema.
func Migrate(t testing.TB, databaseURL string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := migrations.Up(ctx, databaseURL); err != nil {
		t.Fatal(err)
	}
}

// Connect returns a connection that is closed when the test ends.
func Connect(t testing.TB, config *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// ParseURL returns the settings of the product's sessions for a database URL.
func ParseURL(t testing.TB, databaseURL string) *pgx.ConnConfig {
	t.Helper()
	config, err := postgres.ParseURL(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// TempDir returns a temporary directory that the user of Postgres may enter. It is
// removed when the test ends.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := local.TempDir("stockstream-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Superuser returns the URL of the Postgres that the tests of a package share, as its
// superuser.
func Superuser(t testing.TB) string {
	t.Helper()
	server, err := shared.start()
	if err != nil {
		t.Fatal(err)
	}
	return server.SuperuserURL()
}

// PostgresServer starts a Postgres server for one test, which may kill it.
func PostgresServer(t testing.TB) *local.Postgres {
	t.Helper()
	options := local.PostgresOptions{Dir: filepath.Join(TempDir(t), "postgres")}
	p, err := local.StartPostgres(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, p.Stop) })
	keepIfFailed(t, "psql '"+p.URL()+"'")
	return p
}

// PgBouncer starts a PgBouncer in front of a Postgres, for one test. It returns the
// database's URL through it. settings are lines of its configuration, such as "pool_mode
// = transaction".
func PgBouncer(t testing.TB, server *local.Postgres, settings ...string) string {
	t.Helper()
	b, err := local.StartPgBouncer(context.Background(), server, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(t, b.Stop) })
	return b.URL()
}

func execute(t testing.TB, databaseURL, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until condition returns true. If it does not within timeout, the test
// fails with the last detail.
func Eventually(t testing.TB, timeout time.Duration, condition func() (ok bool, detail string)) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		ok, detail := condition()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", timeout, detail)
		}
		<-time.After(10 * time.Millisecond)
	}
}
