package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// killsVariable is the environment variable that says how often a test kills a process.
const killsVariable = "STOCKSTREAM_TEST_KILLS"

// kills returns how often a test kills each process: 2, or the number in
// STOCKSTREAM_TEST_KILLS, which `make faults` sets.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv(killsVariable)
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// acknowledged has the holds and orders that the service has acknowledged to buyers.
type acknowledged struct {
	mu     sync.Mutex
	holds  map[string]bool
	orders map[string]bool
	lossy  bool // the test empties Redis, which loses the holds that are not journaled yet
}

// buyerTTL is for how many seconds a buyer asks to keep a hold: longer than any test.
const buyerTTL = 3600

// buy buys one unit after the other until ctx ends, with a new idempotency key for each.
// It repeats a request without an answer, or with the answer 503, with the same key.
func (s *fixture) buy(ctx context.Context, url, name string, p *acknowledged) {
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%s-%d", name, i)
		id := ""
		for ctx.Err() == nil && id == "" {
			status, found, err := s.reserveAt(url, "ticket", key, 1, buyerTTL)
			if err == nil && status != http.StatusCreated && status != http.StatusServiceUnavailable {
				s.t.Errorf("%s: reserve: %d", key, status)
				return
			}
			id = found
			pause(ctx, err != nil || id == "")
		}
		if id == "" {
			return
		}
		p.note(p.holds, id)
		for paid := false; ctx.Err() == nil && !paid && i%2 == 0; {
			status, _, err := s.send(http.MethodPost, url+"/holds/"+id+"/confirm",
				`{"payment_ref":"pay-`+key+`"}`)
			if lost := err == nil && status == http.StatusNotFound && p.lossy; lost {
				break
			}
			if err == nil && status != http.StatusOK && status != http.StatusServiceUnavailable {
				s.t.Errorf("%s: confirm: %d", key, status)
				return
			}
			if paid = err == nil && status == http.StatusOK; paid {
				p.note(p.orders, id)
			}
			pause(ctx, !paid)
		}
	}
}

// note adds an id to a set of acknowledged ids.
func (p *acknowledged) note(set map[string]bool, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set[id] = true
}

// pause waits 20 ms before a request is repeated.
func pause(ctx context.Context, repeat bool) {
	if !repeat {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// TestKillLosesNothingAcknowledged kills the service and Redis with SIGKILL, and the
// journal's Postgres sessions, in turn and under load, and starts them again. Afterwards
// every acknowledged hold and order exists, and all stores agree.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	const units = 1_000_000
	s := newFixture(t)
	addr := freeAddr(t)
	p := s.program(addr)
	awaitReady(t, s, p.url, p.log)
	s.openTickets(p.url, units)
	acknowledgements := &acknowledged{holds: map[string]bool{}, orders: map[string]bool{}}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 16 {
		buyers.Go(func() { s.buy(buying, p.url, fmt.Sprint("buyer", i), acknowledgements) })
	}
	sellForAWhile := func() {
		<-time.After(300*time.Millisecond + rand.N(400*time.Millisecond))
	}
	for range kills(t) {
		sellForAWhile()
		p.kill()
		p = s.program(addr)
		awaitReady(t, s, p.url, p.log)
		sellForAWhile()
		if err := s.server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.server.Start(s.ctx); err != nil {
			t.Fatal(err)
		}
		awaitReady(t, s, p.url, p.log)
		sellForAWhile()
		if _, err := s.db.Exec(s.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'relation' AND relation = 'events'::regclass)`); err != nil {
			t.Fatal(err)
		}
	}
	sellForAWhile()
	stop()
	buyers.Wait()
	if len(acknowledgements.holds) < 50 {
		t.Fatalf("only %d holds were made, want at least 50", len(acknowledgements.holds))
	}
	s.wantStoresAgree("ticket", units)
	acknowledgements.wantAll(s)
}

// wantAll checks that every acknowledged hold and order is in the read tables.
func (p *acknowledged) wantAll(s *fixture) {
	s.t.Helper()
	missing := func(query string, set map[string]bool) (n int) {
		ids := make([]string, 0, len(set))
		for id := range set {
			ids = append(ids, id)
		}
		return queryValue[int](s, query, ids)
	}
	if n := missing(`SELECT count(*) FROM unnest($1::text[]) AS acknowledged (id) LEFT JOIN holds ON hold_id = id WHERE hold_id IS NULL`, p.holds); n > 0 {
		s.t.Errorf("%d of %d acknowledged holds are missing", n, len(p.holds))
	}
	if n := missing(`SELECT count(*) FROM unnest($1::text[]) AS acknowledged (id) LEFT JOIN orders ON hold_id = id WHERE hold_id IS NULL`, p.orders); n > 0 {
		s.t.Errorf("%d of %d acknowledged orders are missing", n, len(p.orders))
	}
	s.t.Logf("all of the %d acknowledged holds and %d acknowledged orders exist", len(p.holds), len(p.orders))
}
