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
		{"no body", "POST /holds", "", 415, "WRONG_CONTENT_TYPE", "application/json"},
		{"empty JSON body", "POST /holds", " ", 400, "MALFORMED_BODY", "ends in the middle"},
		{"not JSON", "POST /holds", "sku=shirt", 400, "MALFORMED_BODY", "byte 1"},
		{"cut off", "POST /holds", `{"sku":`, 400, "MALFORMED_BODY", "ends in the middle"},
		{"a list", "POST /holds", `[]`, 400, "MALFORMED_BODY", "JSON object"},
		{"null", "POST /holds", `null`, 400, "INVALID_REQUEST", ""},
		{"two values", "POST /holds", twoValues, 400, "MALFORMED_BODY", "more than one"},
		{"unknown field", "POST /holds", reservation("discount", "1"), 400, "MALFORMED_BODY", "discount"},
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
	return []badRequest{
		{"confirm without payment", "POST /holds/h1/confirm", `{}`, 400, "INVALID_REQUEST", "payment_ref"},
		{"two hold ids", "POST /holds/h1/confirm", twoHolds, 400, "INVALID_REQUEST", "hold_id differs"},
		{"cancel nothing", "POST /holds/cancel", `{}`, 400, "INVALID_REQUEST", "hold_id"},
		{"malformed hold id", "POST /holds/%7Bh%7D/cancel", "", 400, "INVALID_REQUEST", "hold_id"},
		{"delta 0", "POST /stock/shirt/adjustments", addZero, 400, "INVALID_REQUEST", "delta"},
		{"malformed sku in the path", "POST /stock/a%2Fb/adjustments", addOne, 400, "INVALID_REQUEST", "sku"},
		{"malformed sku to read", "GET /stock/%20", "", 400, "INVALID_REQUEST", "sku"},
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
