package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery/recoverytest"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	testenv.Main(m)
}

// testServer is an API server with a Redis server and a Postgres schema of its own, and a
// client for it.
type testServer struct {
	t           testing.TB
	ctx         context.Context
	url         string
	client      *http.Client
	redisServer *local.Redis
	redis       *redis.Client
	postgres    *pgxpool.Pool
	commands    *commands.Service
	draining    chan struct{}
}

func startServer(t testing.TB) *testServer {
	t.Helper()
	return startServerOn(t, testenv.Schema(t))
}

func startServerOn(t testing.TB, databaseURL string) *testServer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.ConnectTimeout = time.Second
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := projections.CreateTables(ctx, pool, projections.BuiltIn()...); err != nil {
		t.Fatal(err)
	}
	s := &testServer{
		t:           t,
		ctx:         ctx,
		redisServer: testenv.Redis(t),
		postgres:    pool,
		draining:    make(chan struct{}),
	}
	s.redis = testenv.RedisClient(t, s.redisServer)
	service := s.openService(config.ConnConfig)
	s.commands = service
	rebuilds := rebuild.NewBackground(rebuild.Config{
		Postgres: config.ConnConfig,
		Pool:     events.MainPool,
		Log:      slog.New(slog.DiscardHandler),
	})
	api := httptest.NewServer(NewHandler(Config{
		Commands:    service,
		Ready:       service.Ready,
		Postgres:    pool,
		Redis:       s.redis,
		Pool:        events.MainPool,
		Draining:    s.draining,
		Projections: projections.BuiltIn(),
		Rebuilds:    rebuilds,
		Log:         slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(rebuilds.Close)
	t.Cleanup(api.Close)
	s.url = api.URL
	s.client = api.Client()
	return s
}

// openService returns the commands of the pool, opened.
func (s *testServer) openService(config *pgx.ConnConfig) *commands.Service {
	s.t.Helper()
	limits := commands.DefaultConfig()
	limits.Timeout = time.Second
	return recoverytest.OpenService(s.t, s.redis, config, limits)
}

// reply is an answer whose body has been read.
type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
	closed bool // whether the server asked to close the connection
}

// text returns a text field of the body, "" if there is none.
func (r reply) text(field string) string {
	s, _ := r.body[field].(string)
	return s
}

// number returns a number field of the body, 0 if there is none.
func (r reply) number(field string) float64 {
	n, _ := r.body[field].(float64)
	return n
}

// send sends a request. headers are names and values in turn; a repeated name gets
// several values, and the value "" leaves the header out. The content type of a POST is
// JSON unless headers set it.
func (s *testServer) send(method, path, body string, headers ...string) reply {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if name, value := headers[i], headers[i+1]; name == "Host" {
			request.Host = value
		} else {
			request.Header.Add(name, value)
		}
	}
	if _, set := request.Header["Content-Type"]; method == http.MethodPost && !set {
		request.Header.Set("Content-Type", "application/json")
	}
	maps.DeleteFunc(request.Header, func(_ string, values []string) bool { return values[0] == "" })
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	r := reply{
		status: response.StatusCode,
		header: response.Header,
		raw:    string(raw),
		closed: response.Close,
	}
	if err := json.Unmarshal(bytes.TrimSpace(raw), &r.body); err != nil && method != http.MethodHead {
		s.t.Errorf("%s %s: got %d with the body %q, want a JSON object: %v", method, path, r.status, raw, err)
	}
	return r
}

func (s *testServer) post(path, body string, headers ...string) reply {
	s.t.Helper()
	return s.send(http.MethodPost, path, body, headers...)
}

func (s *testServer) get(path string) reply {
	s.t.Helper()
	return s.send(http.MethodGet, path, "")
}

// want checks the status of an answer, its headers, and, if it is a problem, its code and
// that all its fields are there. step names the request in messages.
func (r reply) want(t testing.TB, step string, status int, code string) {
	t.Helper()
	if r.status != status || r.text("code") != code {
		t.Errorf("%s: got %d %s, want %d %s", step, r.status, r.raw, status, code)
		return
	}
	r.wantHeader(t, step, "X-Content-Type-Options", "nosniff")
	r.wantHeader(t, step, "Cache-Control", "no-store")
	contentType := "application/json"
	if status >= 400 {
		contentType = "application/problem+json"
		for _, field := range []string{"title", "type", "detail"} {
			if r.text(field) == "" {
				t.Errorf("%s: the problem document has no %s: %s", step, field, r.raw)
			}
		}
		if r.number("status") != float64(status) {
			t.Errorf("%s: the problem document's status is not %d: %s", step, status, r.raw)
		}
	}
	if got := r.header.Get("Content-Type"); got != contentType {
		t.Errorf("%s: Content-Type: got %s, want %s", step, got, contentType)
	}
	retryAfter := r.header.Get("Retry-After")
	if (retryAfter != "") != (status == http.StatusServiceUnavailable) {
		t.Errorf("%s: got Retry-After %q with the status %d, want it with 503 only", step, retryAfter, status)
	}
}

// wantHeader checks one header of an answer.
func (r reply) wantHeader(t testing.TB, step, name, want string) {
	t.Helper()
	if got := r.header.Get(name); got != want {
		t.Errorf("%s: %s: got %q, want %q", step, name, got, want)
	}
}

// wantText checks a text field of an answer's body.
func (r reply) wantText(t *testing.T, step, field, want string) {
	t.Helper()
	if got := r.text(field); got != want {
		t.Errorf("%s: %s: got %q, want %q in %s", step, field, got, want, r.raw)
	}
}

// wantNumber checks a number field of an answer's body.
func (r reply) wantNumber(t *testing.T, step, field string, want float64) {
	t.Helper()
	if got := r.number(field); got != want {
		t.Errorf("%s: %s: got %v, want %v in %s", step, field, got, want, r.raw)
	}
}

// exec executes SQL. Tests use it to fill the read tables and the journal without running
// projections.
func (s *testServer) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.postgres.Exec(s.ctx, sql, args...); err != nil {
		s.t.Fatal(err)
	}
}
