package main

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestCrowdBuysExactlyTheStock sends 5,000 buyers at once for 1,000 units through two
// services. Every buyer repeats every request; some pay, some cancel, and some let their
// hold expire. At the end exactly 1,000 units are sold.
func TestCrowdBuysExactlyTheStock(t *testing.T) {
	t.Parallel()
	const units, buyers = 1000, 5000
	s := newFixture(t)
	s.client.Transport.(*http.Transport).MaxConnsPerHost = 150
	services := []*service{s.serve().awaitReady(), s.serve().awaitReady()}
	s.openTickets(services[0].url, units)
	var paid, refused atomic.Int64
	var crowd sync.WaitGroup
	start := make(chan struct{})
	for i := range buyers {
		crowd.Go(func() {
			<-start
			b := buyer{
				t:     t,
				here:  services[i%2],
				there: services[(i+1)%2],
				key:   fmt.Sprint("buyer-", i),
			}
			switch b.act(i%3 + 1) {
			case bought:
				paid.Add(int64(b.qty))
			case soldOut:
				refused.Add(1)
			case left:
			}
		})
	}
	close(start)
	crowd.Wait()
	if paid.Load() > units {
		t.Fatalf("%d units were paid for, want at most %d", paid.Load(), units)
	}
	if refused.Load() == 0 {
		t.Fatal("no buyer was refused")
	}
	// Later buyers get the units of the cancelled and the expired holds.
	testenv.Eventually(t, 3*time.Minute, func() (bool, string) { // one unit per try
		b := buyer{
			t:     t,
			here:  services[0],
			there: services[1],
			key:   fmt.Sprint("late-", paid.Load(), "-", time.Now().UnixNano()),
		}
		if b.payTwice(1) == bought {
			paid.Add(1)
		}
		return paid.Load() == units, fmt.Sprintf("%d of %d sold", paid.Load(), units)
	})
	status, _, err := services[0].reserve("ticket", "one-too-many", 1, 60)
	if status != http.StatusConflict || err != nil {
		t.Errorf("one more: got %d (%v), want 409", status, err)
	}
	s.wantStoresAgree("ticket", units)
	if sold := queryValue[int64](s, `SELECT sold FROM stock_levels WHERE sku = 'ticket'`); sold != units {
		t.Errorf("%d are sold, want %d", sold, units)
	}
}

// buyer is one buyer of the crowd. It sends every request twice, once to each of two
// services.
type buyer struct {
	t           *testing.T
	here, there *service
	key         string
	qty         int
}

type outcome int

const (
	soldOut outcome = iota
	left            // had a hold, and cancelled it or lets it expire
	bought
)

// act reserves, and then pays, cancels or lets the hold expire.
func (b *buyer) act(kind int) outcome {
	switch kind {
	case 1:
		return b.payTwice(1)
	case 2:
		return b.cancelTwice(2)
	default:
		return b.letExpire(1)
	}
}

// reserveTwice reserves at both services with the same key, and checks that both answer
// with the same hold. It returns "" if the SKU is sold out.
func (b *buyer) reserveTwice(qty, ttlSeconds int) (id string) {
	b.qty = qty
	status, id, err := b.here.reserve("ticket", b.key, qty, ttlSeconds)
	if err != nil || status != http.StatusCreated && status != http.StatusConflict {
		b.t.Errorf("%s: reserve: %d (%v)", b.key, status, err)
	}
	if id == "" {
		return ""
	}
	if status, again, err := b.there.reserve("ticket", b.key, qty, ttlSeconds); again != id || err != nil {
		b.t.Errorf("%s: reserve again: %d %q (%v), want the hold %q", b.key, status, again, err, id)
	}
	return id
}

func (b *buyer) post(v *service, path, body string) (status int) {
	status, _, err := v.fixture.send(http.MethodPost, v.url+path, body)
	if err != nil {
		b.t.Errorf("%s: %s: %v", b.key, path, err)
	}
	return status
}

func (b *buyer) payTwice(qty int) outcome {
	id := b.reserveTwice(qty, 300)
	if id == "" {
		return soldOut
	}
	for _, v := range []*service{b.here, b.there} {
		status := b.post(v, "/holds/"+id+"/confirm", `{"payment_ref":"pay-`+b.key+`"}`)
		if status != http.StatusOK {
			b.t.Errorf("%s: confirm: %d", b.key, status)
		}
	}
	status := b.post(b.there, "/holds/"+id+"/confirm", `{"payment_ref":"another"}`)
	if status != http.StatusConflict {
		b.t.Errorf("%s: pay twice: %d, want 409", b.key, status)
	}
	return bought
}

func (b *buyer) cancelTwice(qty int) outcome {
	id := b.reserveTwice(qty, 300)
	if id == "" {
		return soldOut
	}
	for _, v := range []*service{b.here, b.there} {
		if status := b.post(v, "/holds/"+id+"/cancel", ""); status != http.StatusOK {
			b.t.Errorf("%s: cancel: %d", b.key, status)
		}
	}
	return left
}

func (b *buyer) letExpire(qty int) outcome {
	if b.reserveTwice(qty, 1) == "" {
		return soldOut
	}
	return left
}

// wantStoresAgree checks that Redis, the stream, the journal and the read tables agree
// about a SKU. It also checks that the SKU was never oversold, and that the available,
// held and sold units add up to units.
func (s *fixture) wantStoresAgree(sku string, units int64) {
	s.t.Helper()
	s.wantStoresAgreeExceptStream(sku, units)
	entries := s.redis.XLen(s.ctx, "inventory.events").Val()
	if end, err := s.logEnd(); entries != end || err != nil {
		s.t.Errorf("entries of the stream: got %d, want %d (%v)", entries, end, err)
	}
}

// wantStoresAgreeExceptStream is wantStoresAgree without the stream, which has fewer
// entries than the journal after Redis was restored.
func (s *fixture) wantStoresAgreeExceptStream(sku string, units int64) {
	s.t.Helper()
	s.awaitCaughtUp()
	wantEqual := func(what string, got, want int64) {
		s.t.Helper()
		if got != want {
			s.t.Errorf("%s: got %d, want %d", what, got, want)
		}
	}
	available, err := s.redis.Get(s.ctx, s.pool.StockKey(sku)).Int64()
	if err != nil {
		s.t.Fatal(err)
	}
	end, err := s.logEnd()
	if err != nil {
		s.t.Fatal(err)
	}
	wantEqual("events in the journal", queryValue[int64](s, `SELECT count(*) FROM events`), end)
	wantEqual("the journal's last seq", queryValue[int64](s, `SELECT max(seq) FROM events`), end)
	wantEqual("dead letters", queryValue[int64](s, `SELECT count(*) FROM dead_letters`), 0)
	s.wantCleanAudit(true)

	const running = `
		WITH steps AS (
			SELECT seq, CASE type WHEN 'STOCK_ADJUSTED' THEN (payload->>'delta')::bigint WHEN 'HOLD_CREATED' THEN -(payload->>'qty')::bigint
			                      WHEN 'HOLD_CANCELLED' THEN (payload->>'qty')::bigint ELSE 0 END AS step
			FROM events WHERE sku = $1)
		SELECT min(level) FROM (SELECT sum(step) OVER (ORDER BY seq) AS level FROM steps) AS levels`
	if lowest := queryValue[int64](s, running, sku); lowest < 0 {
		s.t.Errorf("the SKU was oversold: after one event, %d units were available", lowest)
	}
	wantEqual("available in stock_levels",
		queryValue[int64](s, `SELECT available FROM stock_levels WHERE sku = $1`, sku), available)
	held := queryValue[int64](s, `SELECT held FROM stock_levels WHERE sku = $1`, sku)
	sold := queryValue[int64](s, `SELECT sold FROM stock_levels WHERE sku = $1`, sku)
	wantEqual("available + held + sold", available+held+sold, units)
	const inHolds = `SELECT coalesce(sum(qty), 0)::bigint FROM holds WHERE sku = $1 AND status = $2`
	wantEqual("active in holds", queryValue[int64](s, inHolds, sku, "ACTIVE"), held)
	wantEqual("confirmed in holds", queryValue[int64](s, inHolds, sku, "CONFIRMED"), sold)
	wantEqual("units in orders",
		queryValue[int64](s, `SELECT coalesce(sum(qty), 0)::bigint FROM orders WHERE sku = $1`, sku), sold)
	wantEqual("live holds in Redis", s.redis.ZCard(s.ctx, s.pool.DueKey()).Val(),
		queryValue[int64](s, `SELECT count(*) FROM holds WHERE status = 'ACTIVE'`))
}
