package httpapi

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

func (r reply) check(name string) map[string]any {
	checks, _ := r.body["checks"].([]any)
	for _, c := range checks {
		if found, _ := c.(map[string]any); found["name"] == name {
			return found
		}
	}
	return nil
}

// TestRedisAway holds that commands are refused as unavailable while Redis is away, that the process stays alive, and
// that it is ready again without help.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1)).want(t, "reserve without Redis", 503, "UNAVAILABLE")
	s.get("/stock/shirt").want(t, "look without Redis", 503, "UNAVAILABLE")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503} {
		for _, method := range []string{"GET", "HEAD"} {
			if r := s.send(method, path, ""); r.status != want {
				t.Errorf("%s %s without Redis: got %d, want %d", method, path, r.status, want)
			}
		}
	}
	r := s.get("/readyz?verbose")
	if r.status != 503 || r.text("status") != "unready" || r.check("redis")["ok"] != false || r.check("postgres")["ok"] != true || r.header.Get("Retry-After") == "" {
		t.Errorf("readyz without Redis: got %d %s", r.status, r.raw)
	}
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		r := s.get("/readyz")
		return r.status == 200, r.raw
	})
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1)).want(t, "reserve with Redis back", 201, "")
}

// TestPostgresAway holds that commands do not need Postgres, that reads say so, and that readiness tells without
// turning unready.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	testenv.Migrate(t, server.URL())
	s := openShopOn(t, server.URL())
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	if r := s.get("/readyz?verbose"); r.status != 200 || r.check("schema")["ok"] != true || len(r.body["projections"].([]any)) != len(projections.BuiltIn()) ||
		r.body["projections"].([]any)[0].(map[string]any)["checkpoint"] == nil {
		t.Errorf("readyz: got %d %s", r.status, r.raw)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	r := s.post("/holds", reserveBody)
	r.want(t, "reserve without Postgres", 201, "")
	s.post("/holds/"+r.text("hold_id")+"/confirm", `{"payment_ref":"p"}`).want(t, "confirm without Postgres", 200, "")
	s.get("/holds/h1").want(t, "read without Postgres", 503, "UNAVAILABLE")
	ready := s.get("/readyz?verbose")
	if ready.status != 200 || ready.check("postgres")["ok"] != false || ready.check("redis")["ok"] != true {
		t.Errorf("readyz without Postgres: got %d %s, want 200 that tells", ready.status, ready.raw)
	}
	if stream, _ := ready.body["stream"].(map[string]any); stream["entries"] != 3.0 || stream["held_by"] != events.ConsumerGroup || stream["oldest"] == nil {
		t.Errorf("readyz: the stream is %v, want three entries that wait for the journal", stream)
	}
}

// TestSilentPostgres holds that a Postgres which does not answer costs a read a moment, and no more.
func TestSilentPostgres(t *testing.T) {
	t.Parallel()
	database := testenv.Schema(t)
	config := testenv.ParseURL(t, database)
	proxy := testenv.NewProxy(t, net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))))
	through, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	through.Host = proxy.Addr()
	s := openShopOn(t, through.String())
	s.get("/holds/h1").want(t, "read", 404, "UNKNOWN_HOLD")
	proxy.Silence(true)
	began := time.Now()
	s.get("/holds/h1").want(t, "read in silence", 503, "UNAVAILABLE")
	if took := time.Since(began); took > 2*readTimeout {
		t.Errorf("it took %s", took)
	}
	proxy.Silence(false)
	proxy.Cut()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		r := s.get("/holds/h1")
		return r.status == 404, r.raw
	})
}

// TestDraining holds that a process that is about to stop says so, and still takes commands.
func TestDraining(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	close(s.draining)
	if r := s.get("/readyz"); r.status != 503 || r.text("status") != "draining" {
		t.Errorf("readyz: got %d %s, want draining", r.status, r.raw)
	}
	r := s.post("/holds", reserveBody)
	r.want(t, "reserve while draining", 201, "")
	if !r.closed {
		t.Error("the connection of a draining process stays open")
	}
}

// TestEmptied holds that an emptied Redis does not sell, with the answer that the contract names.
func TestEmptied(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	s.redis.FlushAll(s.ctx)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve from an emptied Redis", 503, "NOT_READY")
	if r := s.get("/readyz"); r.status != 503 {
		t.Errorf("readyz: got %d", r.status)
	}
}

// TestPanic holds that a fault of ours is a 500 with nothing of its inside in it.
func TestPanic(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	a := &api{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	engine := gin.New()
	engine.Use(a.recover)
	engine.GET("/", func(*gin.Context) { panic("secret") })
	recorder := httptest.NewRecorder()
	engine.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if got := recorder.Body.String(); recorder.Code != 500 || strings.Contains(got, "secret") || !strings.Contains(got, "INTERNAL") {
		t.Errorf("got %d %s", recorder.Code, got)
	}
	if !strings.Contains(log.String(), "secret") {
		t.Errorf("the log does not say why: %s", log.String())
	}
}

// TestHealthOnly holds that a process without the API serves nothing but its health.
func TestHealthOnly(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{HealthOnly: true, Log: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{"/livez": 200, "/holds/h1": 404, "/orders/o": 404} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		if recorder.Code != want {
			t.Errorf("%s: got %s", path, fmt.Sprint(recorder.Code))
		}
	}
}
