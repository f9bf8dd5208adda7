package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/httpapi"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestEventsList tells a hold's life from the journal: what happened, when, and caused by what.
func TestEventsList(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 5, 0)
	_, expires, err := v.reserve("shirt", "k1", 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.reserve("shirt", "k2", 2, 60); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		state := s.redis.HGet(s.ctx, "hold:"+expires, "state").Val()
		return state == "EXPIRED", "the hold is " + state
	})
	s.awaitCaughtUp()

	out, err := s.cli("events", "list", "--hold", expires)
	lines := strings.Split(out, "\n")
	if err != nil || len(lines) != 4 || !strings.HasPrefix(lines[0], "POSITION") || !strings.HasSuffix(lines[0], "CAUSED BY") {
		t.Fatalf("of a hold: got %q (%v), want a heading and two events", out, err)
	}
	for i, says := range [][]string{{"main:2 ", "HOLD_CREATED", "shirt", expires, "1 for buyer, 1s", " -"}, {"main:4 ", "HOLD_CANCELLED", "shirt", expires, "1 of buyer, expired", " expiry/" + expires}} {
		for _, part := range says {
			if !strings.Contains(lines[i+1], part) {
				t.Errorf("line %d: got %q, want it to say %q", i+1, lines[i+1], part)
			}
		}
	}
	out, err = s.cli("events", "list", "--sku", "shirt", "--type", "HOLD_CREATED", "--after", "main:2", "-o", "json")
	var event httpapi.EventAnswer
	if err != nil || strings.Count(out, "\n") != 1 || json.Unmarshal([]byte(out), &event) != nil || event.Seq != 3 || event.Version != 1 || event.SKU != "shirt" {
		t.Errorf("as JSON: got %q (%v)", out, err)
	}
	if out, err = s.cli("events", "list", "--limit", "2"); err != nil || strings.Count(out, "\n") != 4 || !strings.HasSuffix(out, "more events follow: --after main:2\n") {
		t.Errorf("a part: got %q (%v)", out, err)
	}
	if out, err = s.cli("events", "list", "--limit", "4"); err != nil || strings.Contains(out, "more events follow") {
		t.Errorf("all of it: got %q (%v)", out, err)
	}
	for says, args := range map[string][]string{
		"want table or json": {"-o", "xml"}, "SOLD": {"--type", "SOLD"}, "pool:seq": {"--after", "7"}, "the only pool is main": {"--after", "eu:7"}, "at least 1": {"--limit", "0"},
	} {
		if _, err := s.cli(append([]string{"events", "list"}, args...)...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: got %v, want it to say %q", args, err, says)
		}
	}
}

// tail runs `stockstream events tail` until stop, which returns what it ended with.
func (s *fixture) tail(args ...string) (out, errOut *syncBuffer, stop func() error) {
	s.t.Helper()
	out, errOut = &syncBuffer{}, &syncBuffer{}
	ctx, cancel := context.WithCancel(s.ctx)
	s.t.Cleanup(cancel)
	database, err := url.Parse(s.dbURL)
	if err != nil {
		s.t.Fatal(err)
	}
	named := database.Query()
	named.Set("application_name", "tail")
	database.RawQuery = named.Encode()
	done := make(chan error, 1)
	go func() {
		args = append([]string{"events", "tail", "--database-url", database.String()}, args...)
		done <- run(ctx, args, s.environ(), out, errOut)
	}()
	return out, errOut, func() error {
		cancel()
		return <-done
	}
}

// TestEventsTail holds that a tail prints what comes from now on, once and in order, through a Postgres that is killed,
// and ends without an error when it is told to.
func TestEventsTail(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	s := newFixtureOn(t, postgres.URL())
	v := s.serve().awaitReady()
	s.redis.Set(s.ctx, "stock:shirt", 100, 0)
	if _, _, err := v.reserve("shirt", "before", 1, 60); err != nil {
		t.Fatal(err)
	}
	s.awaitCaughtUp()
	out, errOut, stop := s.tail("--sku", "shirt", "-o", "json")
	whole, _, stopWhole := s.tail("--after", "main:0")
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		var following int
		const query = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tail' AND state = 'idle' AND query LIKE '%ORDER BY seq LIMIT%'`
		err := s.db.QueryRow(s.ctx, query).Scan(&following)
		return following == 2, fmt.Sprintf("%d follow (%v)", following, err)
	})
	for round := range 2 {
		for i := range 3 {
			if status, _, err := v.reserve("shirt", fmt.Sprintf("k%d-%d", round, i), 1, 60); status != 201 {
				t.Fatal(status, err)
			}
		}
		if round > 0 {
			break
		}
		if err := postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			return strings.Contains(errOut.String(), "waiting for Postgres: "), "the tail says " + errOut.String()
		})
		if err := postgres.Start(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		return strings.Count(out.String(), "\n") >= 6 && strings.Count(whole.String(), "\n") >= 9, out.String() + whole.String()
	})
	for _, end := range []func() error{stop, stopWhole} {
		if err := end(); err != nil {
			t.Errorf("stopped: got %v", err)
		}
	}
	var seqs []int64
	for decoder := json.NewDecoder(strings.NewReader(out.String())); decoder.More(); {
		var e httpapi.EventAnswer
		if err := decoder.Decode(&e); err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, e.Seq)
	}
	if fmt.Sprint(seqs) != "[3 4 5 6 7 8]" {
		t.Errorf("printed %v, want 3 to 8 once each", seqs)
	}
	if lines := strings.Split(strings.TrimSpace(whole.String()), "\n"); len(lines) != 9 || !strings.HasPrefix(lines[0], "POSITION") || !strings.HasPrefix(lines[8], "main:8 ") {
		t.Errorf("from the beginning: got %q", whole.String())
	}
}

// TestEventsTailRefuses holds that a tail which cannot begin says so and ends.
func TestEventsTailRefuses(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	for says, args := range map[string][]string{
		"connect": {"--database-url", "postgres://app@127.0.0.1:1/inventory"}, "SOLD": {"--type", "SOLD"}, "want table or json": {"-o", "xml"},
	} {
		if _, err := s.cli(append([]string{"events", "tail"}, args...)...); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: got %v, want it to say %q", args, err, says)
		}
	}
}
