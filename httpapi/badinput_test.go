package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"reflect"
	"slices"
	"strings"
	"testing"

	fastjson "github.com/goccy/go-json"
)

// badRequest is a request that must be refused.
type badRequest struct {
	name   string
	target string // method and path
	body   string
	status int
	code   string
	says   string // a part of the answer's detail
}

// reservation returns the body of a reservation in which one field has the given JSON
// value. The value "" leaves the field out.
func reservation(name, value string) string {
	fields := map[string]string{
		"sku":             `"shirt"`,
		"qty":             "1",
		"user_id":         `"ann"`,
		"idempotency_key": `"k"`,
	}
	fields[name] = value
	var parts []string
	for _, key := range []string{"sku", "qty", "user_id", "idempotency_key", "ttl_seconds", "discount"} {
		if fields[key] != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", key, fields[key]))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// badBodies are requests whose body cannot be read.
func badBodies() []badRequest {
	tooLarge := reservation("user_id", `"`+strings.Repeat("x", 70_000)+`"`)
	twoValues := reservation("", "") + "{}"
	return []badRequest{
		{"no body", "POST /holds", "", 400, "MALFORMED_BODY", "ends in the middle"},
		{"empty JSON body", "POST /holds", " ", 400, "MALFORMED_BODY", "ends in the middle"},
		{"not JSON", "POST /holds", "sku=shirt", 400, "MALFORMED_BODY", "byte 1"},
		{"cut off", "POST /holds", `{"sku":`, 400, "MALFORMED_BODY", "ends in the middle"},
		{"a list", "POST /holds", `[]`, 400, "MALFORMED_BODY", "JSON object"},
		{"null", "POST /holds", `null`, 400, "INVALID_REQUEST", ""},
		{"two values", "POST /holds", twoValues, 400, "MALFORMED_BODY", "more than one"},
		{"unknown field", "POST /holds", reservation("discount", "1"), 400, "MALFORMED_BODY", "discount"},
		{"capitals", "POST /holds", `{"sku":"shirt","qty":1,"QTY":7}`, 400, "MALFORMED_BODY", `"QTY"`},
		{"a folded letter", "POST /holds", `{"ſku":"shirt"}`, 400, "MALFORMED_BODY", `"ſku"`},
		{"repeated", "POST /holds", `{"qty":5,"qty":1}`, 400, "MALFORMED_BODY", `"qty" is there twice`},
		{"escaped", "POST /holds", `{"qty":5,"\u0071ty":1}`, 400, "MALFORMED_BODY", `"qty" is there twice`},
		{"capitals, adjust", "POST /stock/a/adjustments", `{"Delta":1}`, 400, "MALFORMED_BODY", `"Delta"`},
		{"capitals, confirm", "POST /holds/confirm", `{"Hold_ID":"h"}`, 400, "MALFORMED_BODY", `"Hold_ID"`},
		{"capitals, cancel", "POST /holds/h/cancel", `{"Hold_ID":"h"}`, 400, "MALFORMED_BODY", `"Hold_ID"`},
		{"no fields", "POST /ops/projections/holds/drop-old", `{"all":1}`, 400, "MALFORMED_BODY", `"all"`},
		{"too large", "POST /holds", tooLarge, 413, "BODY_TOO_LARGE", "65536"},
	}
}

// badFields are reservations with one bad field.
func badFields() []badRequest {
	var requests []badRequest
	for _, field := range []struct{ description, name, value, says string }{
		{"a text", "qty", `"1"`, "qty must be a whole number"},
		{"a fraction", "qty", "1.5", "qty must be a whole number"},
		{"huge", "qty", "1e30", "qty"},
		{"0", "qty", "0", "qty must be from 1 to 1000000"},
		{"a number", "sku", "7", "sku must be a string"},
		{"with braces", "sku", `"{a}"`, "letters, digits and"},
		{"with NUL", "sku", `"a\u0000"`, "sku"},
		{"missing", "user_id", "", "user_id must not be empty"},
		{"missing", "idempotency_key", "", "Idempotency-Key"},
		{"0", "ttl_seconds", "0", "ttl_seconds"},
		{"too long", "ttl_seconds", "3601", "from 1 to 3600"},
		{"absurd", "ttl_seconds", "9223372036854775807", "ttl_seconds"},
	} {
		requests = append(requests, badRequest{
			name:   field.name + " " + field.description,
			target: "POST /holds",
			body:   reservation(field.name, field.value),
			status: http.StatusBadRequest,
			code:   "INVALID_REQUEST",
			says:   field.says,
		})
	}
	return requests
}

// badTargets are requests with a wrong path, method or id, and other commands with a bad
// field.
func badTargets() []badRequest {
	const (
		twoHolds = `{"hold_id":"h2","payment_ref":"p"}`
		addZero  = `{"delta":0,"reason":"r","idempotency_key":"k"}`
		addOne   = `{"delta":1,"reason":"r","idempotency_key":"k"}`
	)
	tooLong := strings.Repeat("x", 69)
	return []badRequest{
		{"confirm without payment", "POST /holds/h1/confirm", `{}`, 400, "INVALID_REQUEST", "payment_ref"},
		{"two hold ids", "POST /holds/h1/confirm", twoHolds, 400, "INVALID_REQUEST", "hold_id differs"},
		{"cancel nothing", "POST /holds/cancel", `{}`, 400, "INVALID_REQUEST", "hold_id"},
		{"malformed hold id", "POST /holds/%7Bh%7D/cancel", "", 400, "INVALID_REQUEST", "hold_id"},
		{"delta 0", "POST /stock/shirt/adjustments", addZero, 400, "INVALID_REQUEST", "delta"},
		{"malformed sku in the path", "POST /stock/a%2Fb/adjustments", addOne, 400, "INVALID_REQUEST", "sku"},
		{"malformed sku to read", "GET /stock/%20", "", 400, "INVALID_REQUEST", "sku"},
		{"hold with NUL", "GET /holds/h1%00", "", 400, "INVALID_REQUEST", "hold_id"},
		{"hold with broken UTF-8", "GET /holds/h1%ff", "", 400, "INVALID_REQUEST", "hold_id"},
		{"events of a hold with NUL", "GET /holds/h1%00/events", "", 400, "INVALID_REQUEST", "hold_id"},
		{"order with NUL", "GET /orders/ord_h1%00", "", 400, "INVALID_REQUEST", "order_id"},
		{"order that is too long", "GET /orders/" + tooLong, "", 400, "INVALID_REQUEST", "order_id"},
		{"order of a hold with NUL", "GET /orders?hold_id=h1%00", "", 400, "INVALID_REQUEST", "hold_id"},
		{"hours of a sku with NUL", "GET /stock/shirt%00/hours", "", 400, "INVALID_REQUEST", "sku"},
		{"hours of a sku with a slash", "GET /stock/a%2Fb/hours", "", 400, "INVALID_REQUEST", "sku"},
		{"events of a sku with NUL", "GET /stock/shirt%00/events", "", 400, "INVALID_REQUEST", "sku"},
		{"cancel a hold with NUL", "POST /holds/h1%00/cancel", "", 400, "INVALID_REQUEST", "hold_id"},
		{"stock with broken UTF-8", "GET /stock/shirt%ff", "", 400, "INVALID_REQUEST", "sku"},
		{"unknown route", "GET /nothing/here", "", 404, "UNKNOWN_ROUTE", ""},
		{"trailing slash", "POST /holds/", reservation("", ""), 404, "UNKNOWN_ROUTE", ""},
		{"wrong method", "DELETE /holds", "", 405, "WRONG_METHOD", ""},
		{"wrong method of a command", "GET /holds/reserve", "", 405, "WRONG_METHOD", ""},
		{"wrong method of a hold", "PUT /holds/h1", "{}", 405, "WRONG_METHOD", ""},
	}
}

// TestBadRequestsAreRefusedWithTheirFault checks that each bad request gets its own code
// and a detail that names the fault, and that it changes nothing in Redis.
func TestBadRequestsAreRefusedWithTheirFault(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	for _, bad := range slices.Concat(badBodies(), badFields(), badTargets()) {
		s.wantRefused(bad)
	}
	several := s.post("/holds", `{"sku":"","qty":0,"idempotency_key":"k"}`)
	if list, _ := several.body["errors"].([]any); len(list) != 3 {
		t.Errorf("three faults at once: got %s, want three errors", several.raw)
	}
}

// TestBadHeadersAreRefusedWithTheirFault checks that a bad header gets its own code and a
// detail that names the fault, and that it changes nothing in Redis.
func TestBadHeadersAreRefusedWithTheirFault(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	withKey := reservation("", "")
	withoutKey := reservation("idempotency_key", "")
	for _, test := range []struct {
		header, value, body string
		status              int
		code, says          string
	}{
		{"Content-Type", "", withKey, 415, "WRONG_CONTENT_TYPE", ""},
		{"Content-Encoding", "gzip", withKey, 400, "INVALID_REQUEST", "Content-Encoding"},
		{"Content-Type", "text/plain", withKey, 415, "WRONG_CONTENT_TYPE", ""},
		{"Content-Type", "application/json; charset=latin1", withKey, 415, "WRONG_CONTENT_TYPE", ""},
		{"Idempotency-Key", "other", withKey, 400, "INVALID_REQUEST", "differs"},
		{"Idempotency-Key", "a b", withoutKey, 400, "INVALID_REQUEST", "idempotency_key may contain only"},
	} {
		bad := badRequest{
			name:   test.header + ": " + test.value,
			target: "POST /holds",
			body:   test.body,
			status: test.status,
			code:   test.code,
			says:   test.says,
		}
		s.wantRefused(bad, test.header, test.value)
	}
}

// TestContradictingHeadersAreRefused checks that two values of a header that the API
// reads are refused if they differ, and accepted if they are equal.
func TestContradictingHeadersAreRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	for name, values := range map[string][2]string{
		"Content-Type":    {"application/json", "text/plain"},
		"Idempotency-Key": {"k", "k2"},
		"X-Request-Id":    {"r1", "r2"},
		"Traceparent":     {"t1", "t2"},
	} {
		first, second := values[0], values[1]
		bad := badRequest{
			name:   "two values of " + name,
			target: "POST /holds",
			body:   reservation("", ""),
			status: http.StatusBadRequest,
			code:   "INVALID_REQUEST",
			says:   name,
		}
		s.wantRefused(bad, name, first, name, second)
		bad.name = "the second value of " + name + " is right"
		s.wantRefused(bad, name, second, name, first)
		r := s.post("/holds", reservation("", ""), name, first, name, first)
		r.want(t, "twice the same "+name, 201, "")
	}
}

// TestBadQueryParametersAreRefused checks that a parameter which is unknown, repeated,
// empty or not encoded is refused by its name, on every kind of route.
func TestBadQueryParametersAreRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	for target, field := range map[string]string{
		"GET /events?typ=HOLD_CREATED":          "typ",
		"GET /events?SKU=x":                     "SKU",
		"GET /events?sku[]=x":                   "sku[]",
		"GET /events?sku=x&sku=x":               "sku",
		"GET /events?hold=x&sku=":               "sku",
		"GET /events?limit":                     "limit",
		"GET /events?sku=a;b":                   "sku",
		"GET /events?sku=x;limit=1":             "sku",
		"GET /events?sku=%zz":                   "sku",
		"GET /events?%zz=1":                     "%zz",
		"GET /events?hold_id=h":                 "hold_id",
		"GET /events?sku=a+b":                   "sku",
		"GET /events?sku=a%20b":                 "sku",
		"GET /events?sku=j%C3%B6n":              "sku",
		"GET /events?sku=a/b":                   "sku",
		"GET /events?hold=x%20y":                "hold",
		"GET /events?after=main:01":             "after",
		"GET /stock/shirt/events?sku=other":     "sku",
		"GET /stock/shirt?live":                 "live",
		"GET /stock/shirt/hours?until=x":        "until",
		"GET /stock/shirt/hours?from=":          "from",
		"GET /holds/h1?verbose":                 "verbose",
		"GET /orders?hold_id=h1&hold_id=h2":     "hold_id",
		"GET /orders?hold_id=":                  "hold_id",
		"GET /ops/projections?name=holds":       "name",
		"GET /readyz?verbos":                    "verbos",
		"GET /readyz?verbose=0":                 "verbose",
		"GET /livez?verbose":                    "verbose",
		"POST /holds?dry_run=1":                 "dry_run",
		"POST /ops/projections/x/rebuild?dry=1": "dry",
	} {
		bad := badRequest{
			name:   target,
			target: target,
			status: http.StatusBadRequest,
			code:   "INVALID_REQUEST",
			says:   field + " ",
		}
		if strings.HasPrefix(target, "POST") {
			bad.body = reservation("", "")
		}
		s.wantRefused(bad)
	}
	for _, path := range []string{
		"/readyz?verbose=1", "/readyz?verbose=true", "/events?&limit=1&", "/events?sku=a%2Bb",
	} {
		if r := s.get(path); r.status != 200 {
			t.Errorf("%s: got %d %s, want 200", path, r.status, r.raw)
		}
	}
}

// wantRefused sends a bad request, and checks its answer and that Redis has as many keys
// as before.
func (s *testServer) wantRefused(bad badRequest, headers ...string) {
	s.t.Helper()
	before := s.redis.DBSize(s.ctx).Val()
	method, path, _ := strings.Cut(bad.target, " ")
	answer := s.send(method, path, bad.body, headers...)
	answer.want(s.t, bad.name, bad.status, bad.code)
	if detail := answer.text("detail"); !strings.Contains(detail, bad.says) {
		s.t.Errorf("%s: got the detail %q, want it to contain %q", bad.name, detail, bad.says)
	}
	if answer.status == http.StatusMethodNotAllowed && answer.header.Get("Allow") == "" {
		s.t.Errorf("%s: got no Allow header, want one", bad.name)
	}
	if after := s.redis.DBSize(s.ctx).Val(); after != before {
		s.t.Errorf("%s: got %d keys in Redis afterwards, want %d", bad.name, after, before)
	}
}

// TestRefusedRequestKeepsTheConnection checks that the connection of a refused request is
// used for the next request.
func TestRefusedRequestKeepsTheConnection(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.get("/livez")
	for _, body := range []string{"{", `{"sku":` + strings.Repeat(" ", 70_000), `{"qty":0}`} {
		reader := strings.NewReader(body)
		request, err := http.NewRequestWithContext(s.ctx, http.MethodPost, s.url+"/holds", reader)
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

// FuzzCheckNames compares checkNames with the names that encoding/json reads, in bodies
// that decodeObject accepts.
func FuzzCheckNames(f *testing.F) {
	f.Add([]byte(reservation("ttl_seconds", "60")))
	f.Add([]byte(`{"sku":"a","SKU":"b"}`))
	f.Add([]byte(`{"sku":"a\\\"\\","s\u006bu":"b" , "qty" : 1}`))
	f.Add([]byte(`{"user_id":"\"qty\":1,","qty":1,"qty":2}`))
	f.Add([]byte("{\"\u017fku\":\"a\", \"\u212a\":1}"))
	f.Add([]byte(`{"":1}`))
	f.Add([]byte(` null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var request ReserveRequest
		if decodeObject(json.NewDecoder(bytes.NewReader(body)), &request) != nil {
			return
		}
		known := []string{"sku", "qty", "user_id", "ttl_seconds", "idempotency_key"}
		var seen []string
		wrong := ""
		decoder := json.NewDecoder(bytes.NewReader(body))
		for i := 0; ; i++ { // the brace, and then a name and a value in turn
			token, err := decoder.Token()
			if err != nil {
				break
			}
			name, isText := token.(string)
			if i%2 == 0 || !isText {
				continue
			}
			if !slices.Contains(known, name) || slices.Contains(seen, name) {
				wrong = name
			}
			seen = append(seen, name)
		}
		if err := checkNames(body); (err != nil) != (wrong != "") {
			t.Errorf("%q: got %v, but encoding/json reads the names %q", body, err, seen)
		}
	})
}

// FuzzDecodeObject checks that goccy/go-json accepts no body that encoding/json refuses,
// and that it reads the same values from the others.
func FuzzDecodeObject(f *testing.F) {
	f.Add([]byte(reservation("ttl_seconds", "60")))
	f.Add([]byte(reservation("qty", "-0")))
	f.Add([]byte(reservation("qty", "1.0")))
	f.Add([]byte(reservation("user_id", `"\ud800\u00e9"`)))
	f.Add([]byte(reservation("user_id", "\"\xff\"")))
	f.Add([]byte(` {"SKU":"a","sku":null,"qty":2,"qty":3} `))
	f.Add([]byte(`{"sku":"a",}`))
	f.Add([]byte(`null null`))
	f.Add([]byte("{}\x00x"))
	f.Add([]byte(reservation("user_id", `"`+strings.Repeat("x", 470)+strings.Repeat(`\ud83d\ude00`, 9)+`"`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		var fast, standard ReserveRequest
		if decodeObject(fastjson.NewDecoder(bytes.NewReader(body)), &fast) != nil {
			return
		}
		if err := decodeObject(json.NewDecoder(bytes.NewReader(body)), &standard); err != nil {
			t.Errorf("%q: goccy/go-json accepts it; encoding/json: %v", body, err)
		}
		if !reflect.DeepEqual(fast, standard) {
			t.Errorf("%q: goccy/go-json reads %+v, encoding/json %+v", body, fast, standard)
		}
	})
}
