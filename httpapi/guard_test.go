package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestForeignHostsAreRefused checks which hosts an API accepts, for each kind of address
// that it may listen on.
func TestForeignHostsAreRefused(t *testing.T) {
	t.Parallel()
	local := []string{"127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080", "[::1]", "127.0.0.1"}
	foreign := []string{
		"rebind.evil.example:8080", "evil.example", "127.0.0.1.evil.example",
		"localhost.evil.example", "", ":8080",
	}
	for _, test := range []struct {
		addr    string
		hosts   []string
		allowed []string
		refused []string
	}{
		{"127.0.0.1:8080", nil, nil, []string{"10.0.0.7:8080", "[fe80::1]"}},
		{"localhost:0", nil, nil, []string{"10.0.0.7"}},
		{"127.0.0.2:8080", nil, []string{"127.0.0.2:9"}, []string{"10.0.0.7"}},
		{"0.0.0.0:8080", nil, []string{"10.0.0.7:8080", "[fe80::1]:80"}, []string{"app:8080"}},
		{"[::]:8080", nil, []string{"10.0.0.7"}, []string{"app"}},
		{":8080", nil, []string{"10.0.0.7"}, []string{"app"}},
		{"shop.internal:8080", nil, []string{"Shop.Internal:1", "10.0.0.7"}, []string{"x.shop.internal"}},
		{"127.0.0.1:1", []string{"app", "Shop.A", "[fe::2]"}, []string{"app:8", "shop.a", "[fe::2]"}, nil},
	} {
		h := hostsOf(test.addr, test.hosts)
		for _, host := range append(test.allowed, local...) {
			if !h.allow(host) {
				t.Errorf("listening on %s with %v: %q is refused", test.addr, test.hosts, host)
			}
		}
		for _, host := range append(test.refused, foreign...) {
			if h.allow(host) {
				t.Errorf("listening on %s with %v: %q is accepted", test.addr, test.hosts, host)
			}
		}
	}
	if !hostsOf("127.0.0.1:8080", []string{"*"}).allow("evil.example") {
		t.Error("with *: a host is refused")
	}
}

// TestWebPageCannotUseTheAPI checks that requests which a web page of another site can
// make a browser send are refused and change nothing: those to a name of that site that
// points here, and those from another origin. Reads, and the requests of programs, work.
func TestWebPageCannotUseTheAPI(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	id := s.post("/holds", reserveBody).text("hold_id")
	targets := []badRequest{
		{target: "POST /holds", body: reservation("", "")},
		{target: "POST /holds/" + id + "/cancel"},
		{target: "POST /stock/shirt/adjustments", body: `{"delta":-5,"reason":"r","idempotency_key":"a"}`},
		{target: "POST /ops/projections/holds/rebuild"},
		{target: "POST /ops/projections/holds/drop-old"},
		{target: "POST /ops/projections/holds/restore-old"},
		{target: "DELETE /ops/projections/holds/rebuild"},
		{target: "POST /nothing/here"},
		{target: "PUT /holds"},
	}
	for _, bad := range targets {
		bad.status, bad.code, bad.says = http.StatusMisdirectedRequest, "WRONG_HOST", "STOCKSTREAM_HTTP_HOSTS"
		bad.name = bad.target + " to another host"
		s.wantRefused(bad, "Host", "rebind.evil.example:8080")
		bad.status, bad.code, bad.says = http.StatusForbidden, "CROSS_ORIGIN", "STOCKSTREAM_HTTP_ORIGINS"
		bad.name = bad.target + " from another origin"
		s.wantRefused(bad, "Origin", "https://evil.example")
		s.wantRefused(bad, "Sec-Fetch-Site", "cross-site")
		s.wantRefused(bad, "Origin", "null", "Sec-Fetch-Site", "same-site")
	}
	for _, path := range []string{"/stock/shirt", "/events", "/holds/" + id, "/readyz?verbose", "/nothing"} {
		bad := badRequest{
			name:   path + " of another host",
			target: "GET " + path,
			status: http.StatusMisdirectedRequest,
			code:   "WRONG_HOST",
		}
		s.wantRefused(bad, "Host", "rebind.evil.example:8080")
	}
	for _, path := range []string{"/livez", "/readyz"} {
		if r := s.send("GET", path, "", "Host", "10.0.0.7:8080"); r.status != 200 {
			t.Errorf("%s for a probe: got %d %s, want 200", path, r.status, r.raw)
		}
	}
	s.send("GET", "/stock/shirt", "", "Origin", "https://evil.example").want(t, "read from another origin", 200, "")
	r := s.post("/holds/"+id+"/cancel", "", "Origin", s.url, "Sec-Fetch-Site", "same-origin")
	r.want(t, "cancel from a page of this origin", 200, "")
}

// TestPostNeedsJSON checks that every POST needs the content type JSON, even without a
// body: a browser sends other types for a page without asking the server first.
func TestPostNeedsJSON(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	id := s.post("/holds", reserveBody).text("hold_id")
	for _, path := range []string{
		"/holds", "/holds/reserve", "/holds/confirm", "/holds/cancel",
		"/holds/" + id + "/confirm", "/holds/" + id + "/cancel",
		"/stock/shirt/adjustments",
		"/ops/projections/holds/rebuild",
		"/ops/projections/holds/drop-old",
		"/ops/projections/holds/restore-old",
	} {
		for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
			bad := badRequest{
				name:   path + " as " + contentType,
				target: "POST " + path,
				status: http.StatusUnsupportedMediaType,
				code:   "WRONG_CONTENT_TYPE",
			}
			s.wantRefused(bad, "Content-Type", contentType)
		}
	}
}

// TestTrustedOriginMaySendCommands checks that a page of a trusted origin passes.
func TestTrustedOriginMaySendCommands(t *testing.T) {
	t.Parallel()
	crossOrigin := http.NewCrossOriginProtection()
	if err := crossOrigin.AddTrustedOrigin("https://shop.example"); err != nil {
		t.Fatal(err)
	}
	handler := NewHandler(Config{
		HealthOnly:  true,
		CrossOrigin: crossOrigin,
		Log:         slog.New(slog.DiscardHandler),
	})
	for origin, want := range map[string]int{"https://shop.example": 404, "https://evil.example": 403} {
		request := httptest.NewRequest(http.MethodPost, "/holds", nil)
		request.Host = "localhost"
		request.Header.Set("Origin", origin)
		request.Header.Set("Sec-Fetch-Site", "cross-site")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("%s: got %d, want %d", origin, recorder.Code, want)
		}
	}
}
