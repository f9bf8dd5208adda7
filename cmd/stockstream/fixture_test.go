package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/redisclient"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// asProgram is the environment variable that makes this test binary run as `stockstream`
// itself, for tests that kill it.
const asProgram = "RUN_AS_STOCKSTREAM"

// absenceMax is the environment variable that sets worker.AbsenceMax in that program.
const absenceMax = "RUN_WITH_ABSENCE_MAX"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if limit, err := time.ParseDuration(os.Getenv(absenceMax)); err == nil {
			worker.AbsenceMax = limit
		}
		main()
		return
	}
	testenv.Main(m)
}

// fixture has a Redis and a Postgres schema for services to run on, and clients of both
// and of HTTP.
type fixture struct {
	t      *testing.T
	ctx    context.Context
	server *local.Redis // nil if there are several
	redis  redis.UniversalClient
	// redisURL and pool are those of the fixture's processes.
	redisURL string
	pool     events.Pool
	dbURL    string
	db       *pgx.Conn
	client   *http.Client
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOn(t, testenv.Postgres(t))
}

func newFixtureOn(t *testing.T, databaseURL string) *fixture {
	t.Helper()
	server := testenv.Redis(t)
	s := newFixtureWith(t, server.URL(), databaseURL, 3*time.Minute)
	s.server = server
	return s
}

// newFixtureWith returns a fixture on the Redis at a URL, which may be one of several
// servers. Its context ends after limit.
func newFixtureWith(t *testing.T, redisURL, databaseURL string, limit time.Duration) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	s := &fixture{
		t:        t,
		ctx:      ctx,
		redisURL: redisURL,
		pool:     (&Config{RedisURL: redisURL}).pool(),
		dbURL:    databaseURL,
	}
	var err error
	if s.redis, err = redisclient.Open(redisURL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.redis.Close() })
	s.client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 300}}
	t.Cleanup(s.client.CloseIdleConnections)
	if out, err := s.cli("migrate", "up"); err != nil {
		t.Fatalf("migrate up: %v\n%s", err, out)
	}
	s.db = s.connect()
	return s
}

func (s *fixture) connect() *pgx.Conn {
	s.t.Helper()
	return testenv.Connect(s.t, testenv.ParseURL(s.t, s.dbURL))
}

// environ returns the settings of the fixture's processes: the URLs of its servers.
func (s *fixture) environ() []string {
	return []string{"STOCKSTREAM_REDIS_URL=" + s.redisURL, "STOCKSTREAM_DATABASE_URL=" + s.dbURL}
}

// cli runs one command of the program in this process and returns its output.
func (s *fixture) cli(args ...string) (string, error) {
	var out bytes.Buffer
	err := run(s.ctx, args, s.environ(), &out, &out)
	return out.String(), err
}

// wantOutput runs a command, checks that it succeeds and prints every text, and returns
// the output.
func (s *fixture) wantOutput(command string, texts ...string) string {
	s.t.Helper()
	out, err := s.cli(strings.Fields(command)...)
	if err != nil {
		s.t.Errorf("%s: got error %v, and printed:\n%s", command, err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			s.t.Errorf("%s: printed:\n%s\nwant it to contain %q", command, out, text)
		}
	}
	return out
}

// wantError runs a command and checks that it fails with an error that contains every
// text.
func (s *fixture) wantError(command string, texts ...string) {
	s.t.Helper()
	_, _ = s.runFailing(command, texts...)
}

// runFailing is wantError, and returns the command's output and error.
func (s *fixture) runFailing(command string, texts ...string) (string, error) {
	s.t.Helper()
	out, err := s.cli(strings.Fields(command)...)
	if err == nil {
		s.t.Errorf("%s: got no error, and printed:\n%s", command, out)
		return out, nil
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			s.t.Errorf("%s: got error %v, want it to contain %q", command, err, text)
		}
	}
	return out, err
}

// exec runs a statement in Postgres.
func (s *fixture) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.db.Exec(s.ctx, sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

// nextPort is below the ports that Linux gives to clients and to listeners without a
// port, which begin at 32768. So no connection takes a port before its server listens.
var nextPort atomic.Int32

func init() { nextPort.Store(10_000 + rand.Int32N(10_000)) }

// freeAddr returns a loopback address on which no program listens. It returns each
// address once.
func freeAddr(t *testing.T) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err == nil {
			if err := listener.Close(); err != nil {
				t.Fatal(err)
			}
			return addr
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

// service is a `stockstream serve` that runs in this process.
type service struct {
	fixture *fixture
	url     string
	log     *testenv.LogBuffer
	stop    func() error // stops it and waits until it has ended; may be called again
}

// serve starts a service with the given flags. It is stopped when the test ends.
func (s *fixture) serve(args ...string) *service {
	s.t.Helper()
	addr := freeAddr(s.t)
	ctx, cancel := context.WithCancel(s.ctx)
	v := &service{fixture: s, url: "http://" + addr, log: &testenv.LogBuffer{}}
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, append([]string{"serve", "--http-addr", addr}, args...), s.environ(), v.log, v.log)
	}()
	v.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	s.t.Cleanup(func() {
		if err := v.stop(); err != nil {
			s.t.Errorf("stop the service: %v", err)
		}
	})
	return v
}

// awaitReady waits until /readyz answers 200.
func (v *service) awaitReady() *service {
	v.fixture.t.Helper()
	awaitReady(v.fixture.t, v.fixture, v.url, v.log)
	return v
}

func awaitReady(t *testing.T, s *fixture, url string, log fmt.Stringer) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, func() (bool, string) {
		status, body, err := s.send(http.MethodGet, url+"/readyz?verbose", "")
		return err == nil && status == http.StatusOK, fmt.Sprintf("%d %v %v\n%s", status, body, err, log)
	})
}

// send sends a request and decodes the JSON object of the answer.
func (s *fixture) send(method, url, body string) (status int, answer map[string]any, err error) {
	request, err := http.NewRequestWithContext(s.ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, answer, json.Unmarshal(raw, &answer)
}

// reserve sends a reservation. holdID is "" unless the status is 201.
func (v *service) reserve(sku, key string, qty, ttlSeconds int) (status int, holdID string, err error) {
	return v.fixture.reserveAt(v.url, sku, key, qty, ttlSeconds)
}

// mustReserve sends a reservation, ends the test unless the status is 201, and returns
// the hold's id.
func (v *service) mustReserve(sku, key string, qty, ttlSeconds int) (holdID string) {
	v.fixture.t.Helper()
	status, holdID, err := v.reserve(sku, key, qty, ttlSeconds)
	if err != nil {
		v.fixture.t.Fatalf("reserve %s with the key %s: %v", sku, key, err)
	}
	if status != http.StatusCreated {
		v.fixture.t.Fatalf("reserve %s with the key %s: got status %d, want 201", sku, key, status)
	}
	return holdID
}

// wantPost sends a POST request and checks the status of the answer.
func (s *fixture) wantPost(url, body string, want int) {
	s.t.Helper()
	status, answer, err := s.send(http.MethodPost, url, body)
	if err != nil {
		s.t.Errorf("POST %s: %v", url, err)
		return
	}
	if status != want {
		s.t.Errorf("POST %s %s: got status %d, want %d: %v", url, body, status, want, answer)
	}
}

func (s *fixture) reserveAt(
	url, sku, key string, qty, ttlSeconds int,
) (status int, holdID string, err error) {
	body := fmt.Sprintf(`{"sku":%q,"qty":%d,"user_id":"buyer","ttl_seconds":%d,"idempotency_key":%q}`,
		sku, qty, ttlSeconds, key)
	status, answer, err := s.send(http.MethodPost, url+"/holds", body)
	if status == http.StatusCreated {
		holdID, _ = answer["hold_id"].(string)
	}
	return status, holdID, err
}

// logEnd returns the last seq of Redis's log.
func (s *fixture) logEnd() (int64, error) {
	return s.redis.HGet(s.ctx, s.pool.MetaKey(), "seq").Int64()
}

// awaitCaughtUp waits until the journal and every projection have reached the end of
// Redis's log.
func (s *fixture) awaitCaughtUp() {
	s.t.Helper()
	testenv.Eventually(s.t, 60*time.Second, func() (bool, string) {
		end, err := s.logEnd()
		if err != nil {
			return false, err.Error()
		}
		if end == 0 {
			return true, ""
		}
		var text string
		const query = `SELECT coalesce(string_agg(projection || ' ' || seq, ', ') FILTER (WHERE seq < $1), CASE WHEN count(*) < $2 THEN 'missing' ELSE '' END) FROM checkpoints`
		if err := s.db.QueryRow(s.ctx, query, end, 1+len(projections.BuiltIn())).Scan(&text); err != nil {
			return false, err.Error()
		}
		return text == "", fmt.Sprintf("the log ends at %d; %s", end, text)
	})
}

// queryValue returns the single value of a query.
func queryValue[T any](s *fixture, sql string, args ...any) T {
	s.t.Helper()
	var value T
	if err := s.db.QueryRow(s.ctx, sql, args...).Scan(&value); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// program is a `stockstream serve` in a process of its own, which a test can kill.
type program struct {
	cmd  *exec.Cmd
	url  string
	log  *testenv.LogBuffer
	done chan error
}

// program starts a `stockstream serve` on addr in a process of its own. It is killed when
// the test ends.
func (s *fixture) program(addr string, args ...string) *program {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p := &program{url: "http://" + addr, log: &testenv.LogBuffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command(self, append([]string{"serve", "--http-addr", addr}, args...)...)
	p.cmd.Env = append(s.environ(), asProgram+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	s.t.Cleanup(p.kill)
	return p
}

// kill kills the process with SIGKILL and waits until it has ended.
func (p *program) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	p.done <- <-p.done
}
