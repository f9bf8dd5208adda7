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

// kills is how often a killing test kills; `make faults` asks for more.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("STOCKSTREAM_TEST_KILLS")
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// acknowledged is what buyers were told.
type acknowledged struct {
	mu     sync.Mutex
	holds  map[string]bool
	orders map[string]bool
	lossy  bool // Redis loses its data, and with them what the journal has not read yet
}

// buy buys one unit after the other, under keys of its own, until ctx ends. A request that got no answer, or a 503, is
// sent again as it was: that is what a key is for.
func (s *fixture) buy(ctx context.Context, url, name string, p *acknowledged) {
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprintf("%s-%d", name, i)
		id := ""
		for ctx.Err() == nil && id == "" {
			status, found, err := s.reserveAt(url, "ticket", key, 1, 300)
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
			status, _, err := s.send(http.MethodPost, url+"/holds/"+id+"/confirm", `{"payment_ref":"pay-`+key+`"}`)
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

func (p *acknowledged) note(set map[string]bool, id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set[id] = true
}

// pause waits a little where there is a reason to.
func pause(ctx context.Context, reason bool) {
	if !reason {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// TestKill kills the service, Redis and Postgres with -9 under load, in turns, and starts each again. Whatever a buyer
// was told is there afterwards, and everything is there once.
func TestKill(t *testing.T) {
	t.Parallel()
	const units = 1_000_000
	s := newFixture(t)
	addr := freeAddr(t)
	p := s.program(addr)
	awaitReady(t, s, p.url, p.log)
	if status, body, err := s.send(http.MethodPost, p.url+"/stock/ticket/adjustments", fmt.Sprintf(`{"delta":%d,"reason":"opening","idempotency_key":"open"}`, units)); status != 200 || err != nil {
		t.Fatal(status, body, err)
	}
	told := &acknowledged{holds: map[string]bool{}, orders: map[string]bool{}}
	buying, stop := context.WithCancel(s.ctx)
	defer stop()
	var buyers sync.WaitGroup
	for i := range 16 {
		buyers.Go(func() { s.buy(buying, p.url, fmt.Sprint("buyer", i), told) })
	}
	sell := func() { // for a moment of chance
		<-time.After(300*time.Millisecond + rand.N(400*time.Millisecond))
	}
	for range kills(t) {
		sell()
		p.kill()
		p = s.program(addr)
		awaitReady(t, s, p.url, p.log)
		sell()
		if err := s.server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := s.server.Start(s.ctx); err != nil {
			t.Fatal(err)
		}
		awaitReady(t, s, p.url, p.log)
		sell()
		if _, err := s.db.Exec(s.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'relation' AND relation = 'events'::regclass)`); err != nil {
			t.Fatal(err)
		}
	}
	sell()
	stop()
	buyers.Wait()
	if len(told.holds) < 50 {
		t.Fatalf("only %d holds were made; that shows nothing", len(told.holds))
	}
	s.wantStoresAgree("ticket", units)
	told.wantAll(s)
}

// wantAll holds that everything that was promised is in the read tables.
func (p *acknowledged) wantAll(s *fixture) {
	s.t.Helper()
	missing := func(query string, set map[string]bool) (n int) {
		ids := make([]string, 0, len(set))
		for id := range set {
			ids = append(ids, id)
		}
		return queryValue[int](s, query, ids)
	}
	if n := missing(`SELECT count(*) FROM unnest($1::text[]) AS told (id) LEFT JOIN holds ON hold_id = id WHERE hold_id IS NULL`, p.holds); n > 0 {
		s.t.Errorf("%d of %d acknowledged holds are missing", n, len(p.holds))
	}
	if n := missing(`SELECT count(*) FROM unnest($1::text[]) AS told (id) LEFT JOIN orders ON hold_id = id WHERE hold_id IS NULL`, p.orders); n > 0 {
		s.t.Errorf("%d of %d acknowledged orders are missing", n, len(p.orders))
	}
	s.t.Logf("%d holds and %d orders were acknowledged, and are there", len(p.holds), len(p.orders))
}
