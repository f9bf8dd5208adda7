package httpapi

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
)

// TestBadRequestsAreRefusedWithTheirFault checks that each bad request gets its own code
// and a detail that names the fault, and that it changes nothing in Redis.
func TestBadRequestsAreRefusedWithTheirFault(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	// field returns the body of a reservation in which one field has the given JSON
	// value; "" leaves the field out.
	field := func(name, value string) string {
		all := map[string]string{"sku": `"shirt"`, "qty": "1", "user_id": `"ann"`, "idempotency_key": `"k"`}
		all[name] = value
		var parts []string
		for _, key := range []string{"sku", "qty", "user_id", "idempotency_key", "ttl_seconds", "discount"} {
			if all[key] != "" {
				parts = append(parts, fmt.Sprintf("%q:%s", key, all[key]))
			}
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	tests := []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code, says               string // says is a part of the detail
	}{
		{"no body", "POST", "/holds", "", nil, 415, "WRONG_CONTENT_TYPE", "application/json"},
		{"empty JSON body", "POST", "/holds", " ", nil, 400, "MALFORMED_BODY", "ends in the middle"},
		{"not JSON", "POST", "/holds", "sku=shirt", nil, 400, "MALFORMED_BODY", "byte 1"},
		{"cut off", "POST", "/holds", `{"sku":`, nil, 400, "MALFORMED_BODY", "ends in the middle"},
		{"a list", "POST", "/holds", `[]`, nil, 400, "MALFORMED_BODY", "JSON object"},
		{"null", "POST", "/holds", `null`, nil, 400, "INVALID_REQUEST", ""},
		{"two values", "POST", "/holds", field("", "") + "{}", nil, 400, "MALFORMED_BODY", "more than one"},
		{"unknown field", "POST", "/holds", field("discount", "1"), nil, 400, "MALFORMED_BODY", "discount"},
		{"too large", "POST", "/holds", field("user_id", `"`+strings.Repeat("x", 70_000)+`"`), nil, 413,
			"BODY_TOO_LARGE", "65536"},
		{"wrong content type", "POST", "/holds", field("", ""), []string{"Content-Type", "text/plain"}, 415,
			"WRONG_CONTENT_TYPE", ""},
		{"wrong charset", "POST", "/holds", field("", ""),
			[]string{"Content-Type", "application/json; charset=latin1"}, 415, "WRONG_CONTENT_TYPE", ""},
		{"qty a text", "POST", "/holds", field("qty", `"1"`), nil, 400, "INVALID_REQUEST",
			"qty must be a whole number"},
		{"qty a fraction", "POST", "/holds", field("qty", "1.5"), nil, 400, "INVALID_REQUEST",
			"qty must be a whole number"},
		{"qty huge", "POST", "/holds", field("qty", "1e30"), nil, 400, "INVALID_REQUEST", "qty"},
		{"qty 0", "POST", "/holds", field("qty", "0"), nil, 400, "INVALID_REQUEST",
			"qty must be from 1 to 1000000"},
		{"sku a number", "POST", "/holds", field("sku", "7"), nil, 400, "INVALID_REQUEST",
			"sku must be a string"},
		{"sku with braces", "POST", "/holds", field("sku", `"{a}"`), nil, 400, "INVALID_REQUEST",
			"letters, digits and"},
		{"sku with NUL", "POST", "/holds", field("sku", `"a\u0000"`), nil, 400, "INVALID_REQUEST", "sku"},
		{"no user", "POST", "/holds", field("user_id", ""), nil, 400, "INVALID_REQUEST",
			"user_id must not be empty"},
		{"no key", "POST", "/holds", field("idempotency_key", ""), nil, 400, "INVALID_REQUEST",
			"Idempotency-Key"},
		{"two keys", "POST", "/holds", field("", ""), []string{"Idempotency-Key", "other"}, 400,
			"INVALID_REQUEST", "differs"},
		{"malformed key in the header", "POST", "/holds", field("idempotency_key", ""),
			[]string{"Idempotency-Key", "a b"}, 400, "INVALID_REQUEST", "idempotency_key may contain only"},
		{"ttl 0", "POST", "/holds", field("ttl_seconds", "0"), nil, 400, "INVALID_REQUEST", "ttl_seconds"},
		{"ttl too long", "POST", "/holds", field("ttl_seconds", "3601"), nil, 400, "INVALID_REQUEST",
			"from 1 to 3600"},
		{"ttl absurd", "POST", "/holds", field("ttl_seconds", "9223372036854775807"), nil, 400,
			"INVALID_REQUEST", "ttl_seconds"},
		{"confirm without payment", "POST", "/holds/h1/confirm", `{}`, nil, 400, "INVALID_REQUEST",
			"payment_ref"},
		{"two hold ids", "POST", "/holds/h1/confirm", `{"hold_id":"h2","payment_ref":"p"}`, nil, 400,
			"INVALID_REQUEST", "hold_id differs"},
		{"cancel nothing", "POST", "/holds/cancel", `{}`, nil, 400, "INVALID_REQUEST", "hold_id"},
		{"malformed hold id in the path", "POST", "/holds/%7Bh%7D/cancel", ``, nil, 400, "INVALID_REQUEST",
			"hold_id"},
		{"delta 0", "POST", "/stock/shirt/adjustments", `{"delta":0,"reason":"r","idempotency_key":"k"}`,
			nil, 400, "INVALID_REQUEST", "delta"},
		{"malformed sku in the path", "POST", "/stock/a%2Fb/adjustments",
			`{"delta":1,"reason":"r","idempotency_key":"k"}`, nil, 400, "INVALID_REQUEST", "sku"},
		{"malformed sku to read", "GET", "/stock/%20", "", nil, 400, "INVALID_REQUEST", "sku"},
		{"unknown route", "GET", "/nothing/here", "", nil, 404, "UNKNOWN_ROUTE", ""},
		{"trailing slash", "POST", "/holds/", field("", ""), nil, 404, "UNKNOWN_ROUTE", ""},
		{"wrong method", "DELETE", "/holds", "", nil, 405, "WRONG_METHOD", ""},
		{"wrong method of a command", "GET", "/holds/reserve", "", nil, 405, "WRONG_METHOD", ""},
		{"wrong method of a hold", "PUT", "/holds/h1", "{}", nil, 405, "WRONG_METHOD", ""},
	}
	keys := func() int64 { return s.redis.DBSize(s.ctx).Val() }
	before := keys()
	for _, test := range tests {
		r := s.send(test.method, test.path, test.body, test.headers...)
		r.want(t, test.name, test.status, test.code)
		if !strings.Contains(r.text("detail"), test.says) {
			t.Errorf("%s: got the detail %q, want it to contain %q", test.name, r.text("detail"), test.says)
		}
		if test.status == 405 && r.header.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", test.name)
		}
	}
	if after := keys(); after != before {
		t.Errorf("keys in Redis: got %d after the refused requests, want %d", after, before)
	}
	several := s.post("/holds", `{"sku":"","qty":0,"idempotency_key":"k"}`)
	if list, _ := several.body["errors"].([]any); len(list) != 3 {
		t.Errorf("three faults at once: got %s, want three errors", several.raw)
	}
}

// TestRefusedRequestKeepsTheConnection checks that the connection of a refused request is
// used for the next request.
func TestRefusedRequestKeepsTheConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.get("/livez")
	for _, body := range []string{"{", `{"sku":` + strings.Repeat(" ", 70_000), `{"qty":0}`} {
		request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.url+"/holds",
			strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
		response, err := s.client.Do(request.WithContext(httptrace.WithClientTrace(s.ctx, trace)))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("%.10s…: got the status %d, want an error", body, response.StatusCode)
		}
		if !reused {
			t.Errorf("%.10s…: the request needed a new connection", body)
		}
	}
}

// FuzzReserve checks that the answer to any body is a hold or a problem document, and
// never a status of 500 or above.
func FuzzReserve(f *testing.F) {
	s := startServer(f)
	s.redis.Set(s.ctx, "stock:shirt", 1_000_000, 0)
	f.Add(reserveBody, "")
	f.Add(`{"sku":"shirt","qty":1,"user_id":"ann"}`, "k")
	f.Add(`{"sku":"\ud800","qty":-0,"user_id":"\u0000"}`, `"`)
	f.Add("\xff", "\x00")
	f.Fuzz(func(t *testing.T, body, key string) {
		s.t = t
		if strings.IndexFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			key = ""
		}
		r := s.post("/holds", body, "Idempotency-Key", key)
		if r.status >= 500 {
			t.Errorf("%q with the key %q: got %d %s, want a status below 500", body, key, r.status, r.raw)
		}
		if r.status != 201 && r.text("code") == "" {
			t.Errorf("%q: got %d %s, want a problem with a code", body, r.status, r.raw)
		}
		if r.status != 201 && r.text("title") == "" {
			t.Errorf("%q: got %d %s, want a problem with a title", body, r.status, r.raw)
		}
	})
}
