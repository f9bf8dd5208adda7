package local_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func startRedis(t *testing.T, options local.RedisOptions) *local.Redis {
	t.Helper()
	server, err := local.StartRedis(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	return server
}

// TestStartStopsAServerLeftOnTheSameData checks that a server that an earlier process
// left running is stopped before a new one starts on its data, and that the new one has
// the required settings.
func TestStartStopsAServerLeftOnTheSameData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "redis")
	first := startRedis(t, local.RedisOptions{Dir: dir})
	second := startRedis(t, local.RedisOptions{Dir: dir})
	select {
	case <-first.Done():
	case <-time.After(10 * time.Second):
		t.Error("the first server still runs on the directory of the second")
	}
	client := redis.NewClient(&redis.Options{Addr: second.Addr()})
	defer client.Close()
	if err := client.Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	for setting, want := range map[string]string{
		"appendonly":       "yes",
		"appendfsync":      "always",
		"maxmemory-policy": "noeviction",
	} {
		if got := client.ConfigGet(t.Context(), setting).Val()[setting]; got != want {
			t.Errorf("%s: got %s, want %s", setting, got, want)
		}
	}
}

// TestErrorNamesThePortThatIsTaken checks that the error names a port on which another
// program listens.
func TestErrorNamesThePortThatIsTaken(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // only a test's listener
	addr := listener.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	_, redisErr := local.StartRedis(t.Context(), local.RedisOptions{Dir: t.TempDir(), Addr: addr})
	_, postgresErr := local.StartPostgres(t.Context(),
		local.PostgresOptions{Dir: filepath.Join(testenv.TempDir(t), "pg"), Addr: addr})
	for name, err := range map[string]error{"redis": redisErr, "postgres": postgresErr} {
		if err == nil || !strings.Contains(err.Error(), "port "+port+" is taken") {
			t.Errorf("%s: got %v, want an error that says the port is taken", name, err)
		}
	}
}

// TestStartFailsIfAnotherServerHasThePort checks that a start does not mistake another
// Redis or Postgres on the same port for its own.
func TestStartFailsIfAnotherServerHasThePort(t *testing.T) {
	t.Parallel()
	other := startRedis(t, local.RedisOptions{Dir: t.TempDir()})
	_, err := local.StartRedis(t.Context(), local.RedisOptions{
		Dir:  t.TempDir(),
		Addr: other.Addr(),
	})
	if err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("redis: got %v, want an error that says the port is taken", err)
	}
	dir := testenv.TempDir(t)
	otherPostgres, err := local.StartPostgres(t.Context(), local.PostgresOptions{
		Dir: filepath.Join(dir, "one"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = otherPostgres.Kill() })
	_, err = local.StartPostgres(t.Context(), local.PostgresOptions{
		Dir:  filepath.Join(dir, "two"),
		Addr: otherPostgres.Addr(),
	})
	if err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("postgres: got %v, want an error that says the port is taken", err)
	}
}

// TestPostgresKeepsItsDataOverAStop checks that a Postgres stops in order and starts
// again on its data, and that the remains of an interrupted initdb do not disturb it.
func TestPostgresKeepsItsDataOverAStop(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.TempDir(t), "postgres")
	// an interrupted start leaves this directory behind
	if err := os.MkdirAll(dir+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	server, err := local.StartPostgres(t.Context(), local.PostgresOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if err := server.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	again, err := local.StartPostgres(t.Context(), local.PostgresOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.Stop(ctx)); err != nil {
		t.Error(err)
	}
	if !strings.Contains(again.URL(), "app@") || !strings.Contains(again.URL(), "/inventory") {
		t.Errorf("URL %s, want the user app and the database inventory", again.URL())
	}
}

// stranger starts a program with the name of a server that works elsewhere, and writes
// its pid into pidFile. It returns a channel that is closed when the program ends.
func stranger(t *testing.T, name, pidFile string) (ended <-chan struct{}) {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, name)
	if err := os.WriteFile(program, content, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "600")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return done
}

// TestStalePidFileEndsNoOtherProgram checks that a pid file whose pid belongs to a server
// on another directory does not end that server.
func TestStalePidFileEndsNoOtherProgram(t *testing.T) {
	t.Parallel()
	dir := testenv.TempDir(t)
	redisEnded := stranger(t, "redis-server", filepath.Join(dir, "redis.pid"))
	startRedis(t, local.RedisOptions{Dir: dir})

	options := local.PostgresOptions{Dir: filepath.Join(dir, "postgres")}
	server, err := local.StartPostgres(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	postgresEnded := stranger(t, "postgres", filepath.Join(options.Dir, "postmaster.pid"))
	// Postgres itself refuses the directory while a process of its user has that pid.
	if server, err := local.StartPostgres(t.Context(), options); err == nil {
		t.Cleanup(func() { _ = server.Kill() })
	}
	select {
	case <-redisEnded:
		t.Error("StartRedis ended another program")
	case <-postgresEnded:
		t.Error("StartPostgres ended another program")
	default:
	}
}
