package commands

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
)

// model is what a shop should be: plain Go, one map per kind of key. It predicts the outcome of every command.
type model struct {
	stock map[string]int64 // by SKU; absent where nobody ever stocked it
	holds map[string]*modelHold
	seen  map[string]string // idempotency key to what it was used for
	made  map[string]string // idempotency key to the hold it made
}

type modelHold struct {
	sku     string
	qty     int64
	state   HoldStatus
	payment string
	due     bool
}

// machine runs the same commands on the model and on Redis.
type machine struct {
	*shop
	model
	prefix string
	ids    []string // holds, to pick from
}

var machines atomic.Int64

// TestModel drives every script with random commands, in any order and with any repeats, against the model. The shop is
// one; each run sells SKUs of its own.
func TestModel(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{shop: s, prefix: fmt.Sprintf("run%d-", machines.Add(1)), model: model{
			stock: map[string]int64{}, holds: map[string]*modelHold{}, seen: map[string]string{}, made: map[string]string{},
		}}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": m.reserve,
			"confirm": m.confirm,
			"cancel":  m.cancel,
			"expire":  m.expire,
			"adjust":  m.adjust,
			"typed":   m.typedByHand,
			"due":     m.becomesDue,
			"":        m.check,
		})
	})
	checkLog(t, s)
}

func (m *machine) drawSKU(t *rapid.T) string {
	return m.prefix + rapid.SampledFrom([]string{"shirt", "coat"}).Draw(t, "sku")
}

func (m *machine) drawKey(t *rapid.T) string {
	return fmt.Sprintf("%skey-%d", m.prefix, rapid.IntRange(1, 12).Draw(t, "key"))
}

func (m *machine) drawHold(t *rapid.T) string {
	return rapid.SampledFrom(append([]string{m.prefix + "none"}, m.ids...)).Draw(t, "hold")
}

func (m *machine) want(t *rapid.T, err error, want *Error) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("got %v, the model says %v", err, want)
	}
}

func (m *machine) reserve(t *rapid.T) {
	sku, key, qty := m.drawSKU(t), m.drawKey(t), rapid.Int64Range(1, 4).Draw(t, "qty")
	use := fmt.Sprint("reserve", sku, qty)
	r, err := m.Reserve(m.ctx, Reserve{SKU: sku, Qty: qty, UserID: "ann", IdempotencyKey: key})
	available, stocked := m.model.stock[sku]
	used, repeated := m.seen[key]
	switch {
	case repeated && used != use:
		m.want(t, err, ErrIdempotencyMismatch)
	case repeated:
		m.want(t, err, nil)
		if r.HoldID != m.made[key] || !r.Replayed || r.Status != m.holds[r.HoldID].state {
			t.Fatalf("repeat: got %+v, want the hold %s in the state %s", r, m.made[key], m.holds[m.made[key]].state)
		}
	case !stocked:
		m.want(t, err, ErrUnknownSKU)
	case available < qty:
		m.want(t, err, ErrSoldOut)
	default:
		m.want(t, err, nil)
		m.model.stock[sku] -= qty
		m.holds[r.HoldID] = &modelHold{sku: sku, qty: qty, state: HoldActive}
		m.seen[key], m.made[key] = use, r.HoldID
		m.ids = append(m.ids, r.HoldID)
	}
}

func (m *machine) confirm(t *rapid.T) {
	id, payment := m.drawHold(t), rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "payment")
	c, err := m.Confirm(m.ctx, Confirm{HoldID: id, PaymentRef: payment})
	h := m.holds[id]
	switch {
	case h == nil:
		m.want(t, err, ErrUnknownHold)
	case h.state == HoldConfirmed && h.payment == payment:
		m.want(t, err, nil)
		if !c.Replayed {
			t.Fatal("a repeated confirmation is not marked as one")
		}
	case h.state != HoldActive:
		m.want(t, err, map[HoldStatus]*Error{HoldConfirmed: ErrHoldConfirmed, HoldCancelled: ErrHoldCancelled, HoldExpired: ErrHoldExpired}[h.state])
	case h.due:
		m.want(t, err, ErrHoldExpired)
	default:
		m.want(t, err, nil)
		h.state, h.payment = HoldConfirmed, payment
	}
}

func (m *machine) cancel(t *rapid.T) { m.end(t, false) }

func (m *machine) expire(t *rapid.T) { m.end(t, true) }

func (m *machine) end(t *rapid.T, expired bool) {
	id := m.drawHold(t)
	c, err := m.Cancel(m.ctx, Cancel{HoldID: id, Expired: expired})
	endsAs, h := HoldCancelled, m.holds[id]
	if expired {
		endsAs = HoldExpired
	}
	switch {
	case h == nil:
		m.want(t, err, ErrUnknownHold)
	case h.state == endsAs:
		m.want(t, err, nil)
		if !c.Replayed {
			t.Fatal("a repeated cancellation is not marked as one")
		}
	case h.state != HoldActive:
		m.want(t, err, map[HoldStatus]*Error{HoldConfirmed: ErrHoldConfirmed, HoldCancelled: ErrHoldCancelled, HoldExpired: ErrHoldExpired}[h.state])
	case expired && !h.due:
		m.want(t, err, ErrNotDue)
	case !expired && h.due:
		m.want(t, err, ErrHoldExpired)
	default:
		m.want(t, err, nil)
		h.state = endsAs
		m.model.stock[h.sku] += h.qty
	}
}

func (m *machine) adjust(t *rapid.T) {
	sku, key := m.drawSKU(t), m.drawKey(t)
	delta := rapid.Int64Range(-4, 8).Filter(func(n int64) bool { return n != 0 }).Draw(t, "delta")
	use := fmt.Sprint("adjust", sku, delta)
	a, err := m.AdjustStock(m.ctx, AdjustStock{SKU: sku, Delta: delta, Reason: "delivery", IdempotencyKey: key})
	available, stocked := m.model.stock[sku]
	used, repeated := m.seen[key]
	switch {
	case repeated && used != use:
		m.want(t, err, ErrIdempotencyMismatch)
	case repeated:
		m.want(t, err, nil)
	case !stocked && delta < 0:
		m.want(t, err, ErrUnknownSKU)
	case available+delta < 0:
		m.want(t, err, ErrInsufficientStock)
	default:
		m.want(t, err, nil)
		m.model.stock[sku] += delta
		m.seen[key] = use
		if a.Available != m.model.stock[sku] {
			t.Fatalf("adjusted: got %d available, want %d", a.Available, m.model.stock[sku])
		}
	}
}

// typedByHand is an operator with redis-cli.
func (m *machine) typedByHand(t *rapid.T) {
	sku, units := m.drawSKU(t), rapid.Int64Range(0, 9).Draw(t, "units")
	m.typed("SET", m.pool.StockKey(sku), units)
	m.model.stock[sku] = units
}

func (m *machine) becomesDue(t *rapid.T) {
	id := m.drawHold(t)
	if h := m.holds[id]; h != nil && h.state == HoldActive {
		m.makeDue(id)
		h.due = true
	}
}

// check compares the counters, the states, and the set of due holds.
func (m *machine) check(t *rapid.T) {
	for sku, want := range m.model.stock {
		if got, err := m.Available(m.ctx, sku); got != want || err != nil {
			t.Fatalf("stock of %s: got %d (%v), want %d", sku, got, err, want)
		}
	}
	for id, want := range m.holds {
		if got := m.operator.HGet(m.ctx, m.pool.HoldKey(id), "state").Val(); got != string(want.state) {
			t.Fatalf("hold %s: got %s, want %s", id, got, want.state)
		}
		live := m.operator.ZScore(m.ctx, m.pool.DueKey(), id).Err() == nil
		if live != (want.state == HoldActive) {
			t.Fatalf("hold %s is %s, and being in holds:due is %t", id, want.state, live)
		}
	}
}

// checkLog holds that the log folds to what Redis has recorded, per SKU, with nothing below zero on the way.
func checkLog(t *testing.T, s *shop) {
	t.Helper()
	available, held := map[string]int64{}, map[string]int64{}
	for _, e := range s.log() {
		var sku string
		switch p := e.event.(type) {
		case *events.StockAdjusted:
			sku = p.SKU
			available[sku] += p.Delta
		case *events.HoldCreated:
			sku = p.SKU
			available[sku] -= p.Qty
			held[sku] += p.Qty
		case *events.HoldConfirmed:
			sku = p.SKU
			held[sku] -= p.Qty
		case *events.HoldCancelled:
			sku = p.SKU
			held[sku] -= p.Qty
			available[sku] += p.Qty
		}
		if available[sku] < 0 || held[sku] < 0 {
			t.Fatalf("after seq %d %s has %d available and %d held: oversold", e.seq, sku, available[sku], held[sku])
		}
	}
	recorded := s.operator.HGetAll(s.ctx, s.pool.MetaKey()).Val()
	for sku, units := range available {
		if recorded["stock:"+sku] != fmt.Sprint(units) {
			t.Errorf("%s: the events come to %d, Redis has recorded %s", sku, units, recorded["stock:"+sku])
		}
	}
}
