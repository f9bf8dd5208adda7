package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
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

// shop is the API on servers of its own, and a client.
type shop struct {
	t        testing.TB
	ctx      context.Context
	url      string
	client   *http.Client
	server   *local.Redis
	redis    *redis.Client
	postgres *pgxpool.Pool
	draining chan struct{}
}

func openShop(t testing.TB) *shop {
	t.Helper()
	return openShopOn(t, testenv.Schema(t))
}

func openShopOn(t testing.TB, databaseURL string) *shop {
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
	s := &shop{t: t, ctx: ctx, server: testenv.Redis(t), postgres: pool, draining: make(chan struct{})}
	s.redis = testenv.RedisClient(t, s.server)
	service := s.open(config.ConnConfig)
	rebuilds := rebuild.NewBackground(rebuild.Config{Postgres: config.ConnConfig, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)})
	api := httptest.NewServer(NewHandler(Config{
		Commands: service, Ready: service.Ready, Postgres: pool, Redis: s.redis, Pool: events.MainPool, Draining: s.draining,
		Projections: projections.BuiltIn(), Rebuilds: rebuilds, Log: slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(rebuilds.Close)
	t.Cleanup(api.Close)
	s.url, s.client = api.URL, api.Client()
	return s
}

func (s *shop) open(config *pgx.ConnConfig) *commands.Service {
	s.t.Helper()
	limits := commands.DefaultConfig()
	limits.Timeout = time.Second
	service, err := commands.NewService(events.MainPool, s.redis, limits)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = service.Close() })
	if err := service.Open(s.ctx, config); err != nil {
		s.t.Fatal(err)
	}
	return service
}

// reply is an answer, read.
type reply struct {
	status int
	header http.Header
	body   map[string]any
	raw    string
	closed bool // the connection, by the server's wish
}

func (r reply) text(field string) string { s, _ := r.body[field].(string); return s }

func (r reply) number(field string) float64 { n, _ := r.body[field].(float64); return n }

// send sends a request; headers are name, value, name, value. A body gets the JSON content type unless they say otherwise.
func (s *shop) send(method, path, body string, headers ...string) reply {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	r := reply{status: response.StatusCode, header: response.Header, raw: string(raw), closed: response.Close}
	if err := json.Unmarshal(bytes.TrimSpace(raw), &r.body); err != nil && method != http.MethodHead {
		s.t.Errorf("%s %s answered %d with %q, which is no JSON object: %v", method, path, r.status, raw, err)
	}
	return r
}

func (s *shop) post(path, body string, headers ...string) reply {
	s.t.Helper()
	return s.send(http.MethodPost, path, body, headers...)
}

func (s *shop) get(path string) reply {
	s.t.Helper()
	return s.send(http.MethodGet, path, "")
}

// want fails unless an answer has a status, and, where it is a problem, its code and form.
func (r reply) want(t *testing.T, what string, status int, code string) {
	t.Helper()
	if r.status != status || r.text("code") != code {
		t.Errorf("%s: got %d %s, want %d %s", what, r.status, r.raw, status, code)
		return
	}
	contentType := "application/json"
	if status >= 400 {
		contentType = "application/problem+json"
		if r.text("title") == "" || r.number("status") != float64(status) || r.text("type") == "" || r.text("detail") == "" {
			t.Errorf("%s: not a whole problem document: %s", what, r.raw)
		}
	}
	if got := r.header.Get("Content-Type"); got != contentType {
		t.Errorf("%s: content type %s, want %s", what, got, contentType)
	}
	if (r.header.Get("Retry-After") != "") != (status == http.StatusServiceUnavailable) {
		t.Errorf("%s: Retry-After %q with %d", what, r.header.Get("Retry-After"), status)
	}
}

// project brings the read tables level with the stream, without a journal: what the queries read is put there.
func (s *shop) project(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.postgres.Exec(s.ctx, sql, args...); err != nil {
		s.t.Fatal(err)
	}
}
