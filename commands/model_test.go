package commands

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
)

// model predicts the outcome of every command. It is plain Go: one map per kind of key in
// Redis.
type model struct {
	stock    map[string]int64 // available units by SKU; a SKU that was never stocked is absent
	holds    map[string]*modelHold
	requests map[string]string // by idempotency key: the request that it was used for
	holdIDs  map[string]string // by idempotency key: the hold that its request made
}

// modelHold is a hold in the model.
type modelHold struct {
	sku        string
	qty        int64
	state      events.HoldStatus
	paymentRef string
	due        bool
}

// machine runs the same commands on the model and on Redis.
type machine struct {
	*fixture
	model
	prefix string   // of its SKUs, keys and unknown holds
	ids    []string // of the holds it made
}

var machines atomic.Int64

// newMachine returns a machine with an empty model, whose SKUs and keys no other machine
// uses.
func newMachine(f *fixture) *machine {
	return &machine{
		fixture: f,
		prefix:  fmt.Sprintf("run%d-", machines.Add(1)),
		model: model{
			stock:    map[string]int64{},
			holds:    map[string]*modelHold{},
			requests: map[string]string{},
			holdIDs:  map[string]string{},
		},
	}
}

// actions returns the actions for rapid's Repeat, which calls the one without a name
// after each other.
func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"reserve":   m.reserve,
		"confirm":   m.confirm,
		"cancel":    m.cancel,
		"expire":    m.expire,
		"adjust":    m.adjust,
		"set stock": m.setStockByHand,
		"due":       m.makeHoldDue,
		"":          m.check,
	}
}

// TestEveryCommandHasTheOutcomeOfTheModel runs random commands, in any order and with any
// repeats, against Redis and the model. All runs share one Redis; each has SKUs of its
// own.
func TestEveryCommandHasTheOutcomeOfTheModel(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	rapid.Check(t, func(t *rapid.T) {
		t.Repeat(newMachine(f).actions())
	})
	checkLog(t, f)
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

// want checks a command's error. A nil want requires success.
func (m *machine) want(t *rapid.T, got error, want *Error) {
	t.Helper()
	switch {
	case want == nil && got != nil:
		t.Fatalf("got error %v, the model says success", got)
	case want != nil && !errors.Is(got, want):
		t.Fatalf("got error %v, the model says %s", got, want.Code)
	}
}

// wantEnded checks the error of a command on a hold that has ended in another way.
func (m *machine) wantEnded(t *rapid.T, got error, state events.HoldStatus) {
	t.Helper()
	m.want(t, got, map[events.HoldStatus]*Error{
		events.StatusConfirmed: ErrHoldConfirmed,
		events.StatusCancelled: ErrHoldCancelled,
		events.StatusExpired:   ErrHoldExpired,
	}[state])
}

func (m *machine) reserve(t *rapid.T) {
	sku := m.drawSKU(t)
	key := m.drawKey(t)
	qty := rapid.Int64Range(1, 4).Draw(t, "qty")
	request := fmt.Sprint("reserve", sku, qty)
	got, err := m.Reserve(m.Ctx, Reserve{
		SKU:            sku,
		Qty:            qty,
		UserID:         "ann",
		IdempotencyKey: key,
	})
	available, stocked := m.model.stock[sku]
	earlier, repeated := m.requests[key]
	switch {
	case repeated && earlier != request:
		m.want(t, err, ErrIdempotencyMismatch)
	case repeated:
		m.want(t, err, nil)
		m.wantRepeated(t, got, m.holdIDs[key])
	case !stocked:
		m.want(t, err, ErrUnknownSKU)
	case available < qty:
		m.want(t, err, ErrSoldOut)
	default:
		m.want(t, err, nil)
		m.model.stock[sku] -= qty
		m.holds[got.HoldID] = &modelHold{sku: sku, qty: qty, state: events.StatusActive}
		m.requests[key] = request
		m.holdIDs[key] = got.HoldID
		m.ids = append(m.ids, got.HoldID)
	}
}

// wantRepeated checks the answer to a reservation that was sent before.
func (m *machine) wantRepeated(t *rapid.T, got Reservation, holdID string) {
	t.Helper()
	if got.HoldID != holdID {
		t.Fatalf("repeated reservation: got hold %s, want %s", got.HoldID, holdID)
	}
	if !got.Replayed {
		t.Fatalf("repeated reservation of hold %s: got Replayed false, want true", holdID)
	}
	if want := m.holds[holdID].state; got.Status != want {
		t.Fatalf("repeated reservation of hold %s: got status %s, want %s", holdID, got.Status, want)
	}
}

func (m *machine) confirm(t *rapid.T) {
	id := m.drawHold(t)
	paymentRef := rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "payment")
	confirmation, err := m.Confirm(m.Ctx, Confirm{HoldID: id, PaymentRef: paymentRef})
	hold := m.holds[id]
	switch {
	case hold == nil:
		m.want(t, err, ErrUnknownHold)
	case hold.state == events.StatusConfirmed && hold.paymentRef == paymentRef:
		m.want(t, err, nil)
		if !confirmation.Replayed {
			t.Fatal("repeated confirmation: got Replayed false, want true")
		}
	case hold.state != events.StatusActive:
		m.wantEnded(t, err, hold.state)
	case hold.due:
		m.want(t, err, ErrHoldExpired)
	default:
		m.want(t, err, nil)
		hold.state = events.StatusConfirmed
		hold.paymentRef = paymentRef
	}
}

func (m *machine) cancel(t *rapid.T) { m.end(t, false) }

func (m *machine) expire(t *rapid.T) { m.end(t, true) }

// end cancels a hold, at the shopper's request or because of its deadline.
func (m *machine) end(t *rapid.T, expired bool) {
	id := m.drawHold(t)
	cancellation, err := m.Cancel(m.Ctx, Cancel{HoldID: id, Expired: expired})
	hold := m.holds[id]
	endState := events.StatusCancelled
	if expired {
		endState = events.StatusExpired
	}
	switch {
	case hold == nil:
		m.want(t, err, ErrUnknownHold)
	case hold.state == endState:
		m.want(t, err, nil)
		if !cancellation.Replayed {
			t.Fatal("repeated cancellation: got Replayed false, want true")
		}
	case hold.state != events.StatusActive:
		m.wantEnded(t, err, hold.state)
	case expired && !hold.due:
		m.want(t, err, ErrNotDue)
	case !expired && hold.due:
		m.want(t, err, ErrHoldExpired)
	default:
		m.want(t, err, nil)
		hold.state = endState
		m.model.stock[hold.sku] += hold.qty
	}
}

func (m *machine) adjust(t *rapid.T) {
	sku := m.drawSKU(t)
	key := m.drawKey(t)
	delta := rapid.Int64Range(-4, 8).Filter(func(n int64) bool { return n != 0 }).Draw(t, "delta")
	request := fmt.Sprint("adjust", sku, delta)
	adjustment, err := m.AdjustStock(m.Ctx, AdjustStock{
		SKU:            sku,
		Delta:          delta,
		Reason:         "delivery",
		IdempotencyKey: key,
	})
	available, stocked := m.model.stock[sku]
	earlier, repeated := m.requests[key]
	switch {
	case repeated && earlier != request:
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
		m.requests[key] = request
		if got, want := adjustment.Available, m.model.stock[sku]; got != want {
			t.Fatalf("adjusted %s: got %d available, want %d", sku, got, want)
		}
	}
}

// setStockByHand sets a stock counter as an operator would in redis-cli.
func (m *machine) setStockByHand(t *rapid.T) {
	sku := m.drawSKU(t)
	units := rapid.Int64Range(0, 9).Draw(t, "units")
	m.RedisCommand("SET", m.Pool.StockKey(sku), units)
	m.model.stock[sku] = units
}

// makeHoldDue moves the deadline of an active hold into the past.
func (m *machine) makeHoldDue(t *rapid.T) {
	id := m.drawHold(t)
	hold := m.holds[id]
	if hold != nil && hold.state == events.StatusActive {
		m.MakeDue(id)
		hold.due = true
	}
}

// check compares Redis with the model: the stock counters, the states of the holds, and
// the due set.
func (m *machine) check(t *rapid.T) {
	for sku, want := range m.model.stock {
		got, err := m.Available(m.Ctx, sku)
		if err != nil {
			t.Fatalf("stock of %s: %v, want %d", sku, err, want)
		}
		if got != want {
			t.Fatalf("stock of %s: got %d, want %d", sku, got, want)
		}
	}
	for id, hold := range m.holds {
		state := m.Operator.HGet(m.Ctx, m.Pool.HoldKey(id), "state").Val()
		if state != string(hold.state) {
			t.Fatalf("hold %s: got state %s, want %s", id, state, hold.state)
		}
		inDueSet := m.Operator.ZScore(m.Ctx, m.Pool.DueKey(), id).Err() == nil
		if want := hold.state == events.StatusActive; inDueSet != want {
			t.Fatalf("hold %s is %s: got it in holds:due %t, want %t", id, hold.state, inDueSet, want)
		}
	}
}

// stockTotals are the units of one SKU that a log accounts for.
type stockTotals struct {
	available int64
	held      int64
}

// checkLog checks that the log folds to the stock that Redis has recorded for each SKU,
// and that no number of units is below zero on the way.
func checkLog(t *testing.T, f *fixture) {
	t.Helper()
	totals := map[string]stockTotals{}
	for _, logged := range f.Log() {
		sku, change := stockChange(logged.Event)
		total := totals[sku]
		total.available += change.available
		total.held += change.held
		totals[sku] = total
		if total.available < 0 {
			t.Fatalf("after seq %d %s has %d units available, want none below 0",
				logged.Seq, sku, total.available)
		}
		if total.held < 0 {
			t.Fatalf("after seq %d %s has %d units held, want none below 0", logged.Seq, sku, total.held)
		}
	}
	recorded := f.Operator.HGetAll(f.Ctx, f.Pool.MetaKey()).Val()
	for sku, total := range totals {
		if got, want := recorded["stock:"+sku], digits(total.available); got != want {
			t.Errorf("%s: Redis has recorded %q units, want the %s of the log", sku, got, want)
		}
	}
}

// stockChange returns the SKU of an event, and what the event adds to its totals.
func stockChange(event events.Event) (sku string, change stockTotals) {
	switch e := event.(type) {
	case *events.StockAdjusted:
		return e.SKU, stockTotals{available: e.Delta}
	case *events.HoldCreated:
		return e.SKU, stockTotals{available: -e.Qty, held: e.Qty}
	case *events.HoldConfirmed:
		return e.SKU, stockTotals{held: -e.Qty}
	case *events.HoldCancelled:
		return e.SKU, stockTotals{available: e.Qty, held: -e.Qty}
	}
	return "", stockTotals{}
}
