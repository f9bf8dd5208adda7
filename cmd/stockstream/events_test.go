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

// TestEventsListShowsAHoldsHistory checks the listed events of a hold that expired, the
// filters, the limit, and the errors.
func TestEventsListShowsAHoldsHistory(t *testing.T) {
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

	out := s.wantOutput("events list --hold " + expires)
	lines := strings.Split(out, "\n")
	if len(lines) != 4 {
		t.Fatalf("of a hold: got %q, want a heading and two events", out)
	}
	if !strings.HasPrefix(lines[0], "POSITION") || !strings.HasSuffix(lines[0], "CAUSED BY") {
		t.Errorf("heading: got %q, want it from POSITION to CAUSED BY", lines[0])
	}
	for i, texts := range [][]string{
		{"main:2 ", "HOLD_CREATED", "shirt", expires, "1 for buyer, 1s", " -"},
		{"main:4 ", "HOLD_CANCELLED", "shirt", expires, "1 of buyer, expired", " expiry/" + expires},
	} {
		for _, text := range texts {
			if !strings.Contains(lines[i+1], text) {
				t.Errorf("line %d: got %q, want it to contain %q", i+1, lines[i+1], text)
			}
		}
	}

	out = s.wantOutput("events list --sku shirt --type HOLD_CREATED --after main:2 -o json")
	if got := strings.Count(out, "\n"); got != 1 {
		t.Errorf("as JSON: got %d lines, want 1: %q", got, out)
	}
	var event httpapi.EventAnswer
	if err := json.Unmarshal([]byte(out), &event); err != nil {
		t.Fatalf("as JSON: %v in %q", err, out)
	}
	if event.Seq != 3 {
		t.Errorf("as JSON: got seq %d, want 3", event.Seq)
	}
	if event.Version != 1 {
		t.Errorf("as JSON: got version %d, want 1", event.Version)
	}
	if event.SKU != "shirt" {
		t.Errorf("as JSON: got SKU %s, want shirt", event.SKU)
	}

	out = s.wantOutput("events list --limit 2")
	if got := strings.Count(out, "\n"); got != 4 {
		t.Errorf("--limit 2: got %d lines, want a heading, two events and a hint: %q", got, out)
	}
	if want := "more events follow: --after main:2\n"; !strings.HasSuffix(out, want) {
		t.Errorf("--limit 2: got %q, want it to end with %q", out, want)
	}
	if out = s.wantOutput("events list --limit 4"); strings.Contains(out, "more events follow") {
		t.Errorf("--limit 4: got %q, want no hint, since there are four events", out)
	}
	for flags, text := range map[string]string{
		"-o xml":         "want table or json",
		"--type SOLD":    "SOLD",
		"--after 7":      "pool:seq",
		"--after eu:7":   "the only pool is main",
		"--limit 0":      "at least 1",
		"--after main:5": "beyond the end of the journal: main:5 is after main:4",
		"--sku a/b":      "sku may contain only",
		"--hold a\x00":   "hold may contain only",
	} {
		s.wantError("events list "+flags, text)
	}
}

// tail runs `stockstream events tail` until stop is called. stop returns the command's
// error.
func (s *fixture) tail(args ...string) (out, errOut *testenv.LogBuffer, stop func() error) {
	s.t.Helper()
	out, errOut = &testenv.LogBuffer{}, &testenv.LogBuffer{}
	ctx, cancel := context.WithCancel(s.ctx)
	s.t.Cleanup(cancel)
	database, err := url.Parse(s.dbURL)
	if err != nil {
		s.t.Fatal(err)
	}
	query := database.Query()
	query.Set("application_name", "tail")
	database.RawQuery = query.Encode()
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

// TestEventsTailPrintsEachNewEventOnce checks that a tail prints new events once and in
// order although Postgres is killed and started again, and that it ends without an error
// when it is interrupted.
func TestEventsTailPrintsEachNewEventOnce(t *testing.T) {
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
			v.mustReserve("shirt", fmt.Sprintf("k%d-%d", round, i), 1, 60)
		}
		if round > 0 {
			break
		}
		if err := postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			said := errOut.String()
			return strings.Contains(said, "waiting for Postgres: "), "the tail says " + said
		})
		if err := postgres.Start(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		printed := out.String() + whole.String()
		return strings.Count(out.String(), "\n") >= 6 && strings.Count(whole.String(), "\n") >= 9, printed
	})
	for _, end := range []func() error{stop, stopWhole} {
		if err := end(); err != nil {
			t.Errorf("interrupted tail: got error %v", err)
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
	lines := strings.Split(strings.TrimSpace(whole.String()), "\n")
	if len(lines) != 9 {
		t.Fatalf("tail --after main:0: got %d lines, want a heading and 8 events: %q",
			len(lines), whole.String())
	}
	if !strings.HasPrefix(lines[0], "POSITION") {
		t.Errorf("tail --after main:0: got heading %q", lines[0])
	}
	if !strings.HasPrefix(lines[8], "main:8 ") {
		t.Errorf("tail --after main:0: got last line %q, want main:8", lines[8])
	}
}

// TestEventsTailFailsIfItCannotStart checks that a tail with wrong flags or without
// Postgres ends with an error.
func TestEventsTailFailsIfItCannotStart(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	s.wantError("events tail --database-url postgres://app@127.0.0.1:1/inventory", "connect")
	s.wantError("events tail --type SOLD", "SOLD")
	s.wantError("events tail --after main:1", "beyond the end of the journal")
	s.wantError("events tail -o xml", "want table or json")
}
