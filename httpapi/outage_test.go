package httpapi

import (
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

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// check returns the check of the given name from an answer of /readyz?verbose, nil if
// there is none.
func (r reply) check(name string) map[string]any {
	checks, _ := r.body["checks"].([]any)
	for _, c := range checks {
		if found, _ := c.(map[string]any); found["name"] == name {
			return found
		}
	}
	return nil
}

// TestCommandsWithoutRedisAreUnavailable checks that commands are refused as UNAVAILABLE
// while Redis is down, that the process stays alive but unready, and that commands work
// again after Redis has restarted.
func TestCommandsWithoutRedisAreUnavailable(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	if err := s.redisServer.Kill(); err != nil {
		t.Fatal(err)
	}
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1)).want(t, "reserve without Redis", 503,
		"UNAVAILABLE")
	s.get("/stock/shirt").want(t, "read the stock without Redis", 503, "UNAVAILABLE")
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503} {
		for _, method := range []string{"GET", "HEAD"} {
			if r := s.send(method, path, ""); r.status != want {
				t.Errorf("%s %s without Redis: got %d, want %d", method, path, r.status, want)
			}
		}
	}
	r := s.get("/readyz?verbose")
	if r.status != 503 {
		t.Errorf("readyz without Redis: got %d, want 503", r.status)
	}
	r.wantText(t, "readyz without Redis", "status", "unready")
	if ok := r.check("redis")["ok"]; ok != false {
		t.Errorf("readyz without Redis: redis is ok: got %v, want false", ok)
	}
	if ok := r.check("postgres")["ok"]; ok != true {
		t.Errorf("readyz without Redis: postgres is ok: got %v, want true", ok)
	}
	if r.header.Get("Retry-After") == "" {
		t.Error("readyz without Redis: no header Retry-After")
	}
	if err := s.redisServer.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		r := s.get("/readyz")
		return r.status == 200, r.raw
	})
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1)).want(t,
		"reserve after Redis has restarted", 201, "")
}

// TestCommandsWorkWithoutPostgres checks that, while Postgres is down, commands work,
// reads are UNAVAILABLE, and the process stays ready and reports the failure.
func TestCommandsWorkWithoutPostgres(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	testenv.Migrate(t, server.URL())
	s := startServerOn(t, server.URL())
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	healthy := s.get("/readyz?verbose")
	if healthy.status != 200 {
		t.Errorf("readyz: got %d %s, want 200", healthy.status, healthy.raw)
	}
	if ok := healthy.check("schema")["ok"]; ok != true {
		t.Errorf("readyz: schema is ok: got %v, want true", ok)
	}
	reports := healthy.body["projections"].([]any)
	if len(reports) != len(projections.BuiltIn()) {
		t.Errorf("readyz: got %d projections, want %d", len(reports), len(projections.BuiltIn()))
	}
	if reports[0].(map[string]any)["checkpoint"] == nil {
		t.Errorf("readyz: a projection has no checkpoint: %v", reports[0])
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	r := s.post("/holds", reserveBody)
	r.want(t, "reserve without Postgres", 201, "")
	s.post("/holds/"+r.text("hold_id")+"/confirm", `{"payment_ref":"p"}`).want(t, "confirm without Postgres",
		200, "")
	s.get("/holds/h1").want(t, "read without Postgres", 503, "UNAVAILABLE")
	ready := s.get("/readyz?verbose")
	if ready.status != 200 {
		t.Errorf("readyz without Postgres: got %d %s, want 200", ready.status, ready.raw)
	}
	if ok := ready.check("postgres")["ok"]; ok != false {
		t.Errorf("readyz without Postgres: postgres is ok: got %v, want false", ok)
	}
	if ok := ready.check("redis")["ok"]; ok != true {
		t.Errorf("readyz without Postgres: redis is ok: got %v, want true", ok)
	}
	stream, _ := ready.body["stream"].(map[string]any)
	if stream["entries"] != 3.0 {
		t.Errorf("entries in the stream: got %v, want 3", stream["entries"])
	}
	if stream["held_by"] != events.ConsumerGroup {
		t.Errorf("held_by of the stream: got %v, want the journal's group %s",
			stream["held_by"], events.ConsumerGroup)
	}
	if stream["oldest"] == nil {
		t.Errorf("the stream's report has no oldest entry: %v", stream)
	}
}

// TestReadTimesOutIfPostgresIsSilent checks that a read answers UNAVAILABLE within
// 2*readTimeout if Postgres does not answer, and that reads work again after that.
func TestReadTimesOutIfPostgresIsSilent(t *testing.T) {
	t.Parallel()
	database := testenv.Schema(t)
	config := testenv.ParseURL(t, database)
	proxy := testenv.NewProxy(t, net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))))
	through, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	through.Host = proxy.Addr()
	s := startServerOn(t, through.String())
	s.get("/holds/h1").want(t, "read", 404, "UNKNOWN_HOLD")
	proxy.Silence(true)
	began := time.Now()
	s.get("/holds/h1").want(t, "read while Postgres is silent", 503, "UNAVAILABLE")
	if took := time.Since(began); took > 2*readTimeout {
		t.Errorf("the read took %s, want at most %s", took, 2*readTimeout)
	}
	proxy.Silence(false)
	proxy.Cut()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		r := s.get("/holds/h1")
		return r.status == 404, r.raw
	})
}

// TestReadyzReportsTheEventsThatAreNotJournaled checks number and age of the events that
// are not journaled, with Postgres and without it, and that reserves which are refused
// because of that number leave the process ready.
func TestReadyzReportsTheEventsThatAreNotJournaled(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	testenv.Migrate(t, server.URL())
	s := startServerOn(t, server.URL())
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	wantLag := func(step string) {
		t.Helper()
		answer := s.get("/readyz?verbose")
		if answer.status != 200 {
			t.Errorf("%s: got status %d, want 200", step, answer.status)
		}
		report, _ := answer.body["journal"].(map[string]any)
		if report["lag_events"] != 2.0 {
			t.Errorf("%s: got %v events that are not journaled, want 2", step, report["lag_events"])
		}
		if age, _ := report["lag_seconds"].(float64); age <= 0 || age > 60 {
			t.Errorf("%s: got lag_seconds %v, want it between 0 and 60", step, report["lag_seconds"])
		}
	}
	wantLag("with Postgres")
	s.commands.Gate().SetJournalLag(commands.JournalLag{Events: 2, Max: 2})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	wantLag("without Postgres")
	if ok := s.get("/readyz?verbose").check("journal")["ok"]; ok != false {
		t.Errorf("journal is ok: got %v, want false at the limit", ok)
	}
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1)).want(t, "reserve at the limit", 503,
		"JOURNAL_BEHIND")
}

// TestDrainingProcessStillAcceptsCommands checks that a process which is about to stop is
// unready, still accepts commands, and closes the connections of its clients.
func TestDrainingProcessStillAcceptsCommands(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	close(s.draining)
	ready := s.get("/readyz")
	if ready.status != 503 {
		t.Errorf("readyz while draining: got %d, want 503", ready.status)
	}
	ready.wantText(t, "readyz while draining", "status", "draining")
	r := s.post("/holds", reserveBody)
	r.want(t, "reserve while draining", 201, "")
	if !r.closed {
		t.Error("the draining process did not ask to close the connection")
	}
}

// TestEmptiedRedisDoesNotSell checks that commands are refused as NOT_READY after
// FLUSHALL, even if the stock is set again.
func TestEmptiedRedisDoesNotSell(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	s.redis.FlushAll(s.ctx)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	s.post("/holds", reserveBody).want(t, "reserve from an emptied Redis", 503, "NOT_READY")
	if r := s.get("/readyz"); r.status != 503 {
		t.Errorf("readyz with an emptied Redis: got %d, want 503", r.status)
	}
}

// TestPanicIsInternalErrorWithoutDetails checks that a panic is answered as INTERNAL, and
// that its text is only in the log.
func TestPanicIsInternalErrorWithoutDetails(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	a := &api{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}}
	engine := gin.New()
	engine.Use(a.recover)
	engine.GET("/", func(*gin.Context) { panic("secret") })
	recorder := httptest.NewRecorder()
	engine.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if recorder.Code != 500 {
		t.Errorf("status: got %d, want 500", recorder.Code)
	}
	answer := recorder.Body.String()
	if strings.Contains(answer, "secret") {
		t.Errorf("the answer has the text of the panic: %s", answer)
	}
	if !strings.Contains(answer, "INTERNAL") {
		t.Errorf("the answer does not have the code INTERNAL: %s", answer)
	}
	if !strings.Contains(log.String(), "secret") {
		t.Errorf("the log does not have the text of the panic: %s", log.String())
	}
}

// TestHealthOnlyServesNoOtherRoutes checks that a process without the API serves only its
// health.
func TestHealthOnlyServesNoOtherRoutes(t *testing.T) {
	t.Parallel()
	handler := NewHandler(Config{HealthOnly: true, Log: slog.New(slog.DiscardHandler)})
	for path, want := range map[string]int{"/livez": 200, "/holds/h1": 404, "/orders/o": 404} {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, path, nil)
		request.Host = "localhost"
		handler.ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("%s: got %d, want %d", path, recorder.Code, want)
		}
	}
}
