package projections

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
)

// TestBuiltIn reads what the projections make of a hold that ends in each way, and of one that does not.
func TestBuiltIn(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(stocked(10), created("a", 1), created("b", 2), created("c", 3), created("d", 1))
	p.run(3, BuiltIn()...)
	p.await(BuiltIn()...)
	p.journal(confirmed("a", 1), cancelled("b", 2, events.ReasonRequested), cancelled("c", 3, events.ReasonExpired))
	p.await(BuiltIn()...)

	if got, want := p.rows("stock_levels"), "(shirt,8,1,1)"; got != want {
		t.Errorf("stock_levels: got %s, want %s", got, want)
	}
	for id, status := range map[string]string{"a": "CONFIRMED", "b": "CANCELLED", "c": "EXPIRED", "d": "ACTIVE"} {
		if h, err := FindHold(p.ctx, p.db, id); err != nil || h.Status != status {
			t.Errorf("hold %s: got %+v (%v), want it %s", id, h, err, status)
		}
	}
	h, err := FindHold(p.ctx, p.db, "b")
	want := Hold{
		HoldID: "b", SKU: "shirt", Qty: 2, UserID: "ann", Status: "CANCELLED", IdempotencyKey: "k-b",
		CreatedAt: began.Add(3 * time.Second), ExpiresAt: began.Add(63 * time.Second),
	}
	h.CreatedAt, h.ExpiresAt = h.CreatedAt.UTC(), h.ExpiresAt.UTC()
	if err != nil || h != want {
		t.Errorf("hold b: got %+v (%v), want %+v", h, err, want)
	}
	order, err := FindOrderOfHold(p.ctx, p.db, "a")
	order.CreatedAt = order.CreatedAt.UTC()
	wantOrder := Order{
		OrderID: "ord_a", HoldID: "a", UserID: "ann", SKU: "shirt", Qty: 1, Status: "CONFIRMED", PaymentRef: "pay-a", CreatedAt: began.Add(6 * time.Second),
	}
	if err != nil || order != wantOrder {
		t.Errorf("order: got %+v (%v), want %+v", order, err, wantOrder)
	}
	if byID, err := FindOrder(p.ctx, p.db, "ord_a"); err != nil || byID.HoldID != "a" {
		t.Errorf("order by id: got %+v (%v)", byID, err)
	}
	hours, err := FindSKUHours(p.ctx, p.db, "shirt", began.Add(-time.Hour), began.Add(time.Hour))
	if err != nil || len(hours) != 1 {
		t.Fatalf("hours: got %+v (%v), want one", hours, err)
	}
	hours[0].Hour = hours[0].Hour.UTC()
	if want := (SKUHour{SKU: "shirt", Hour: began.Truncate(time.Hour), Reserved: 7, Sold: 1, Cancelled: 2, Expired: 3}); hours[0] != want {
		t.Errorf("hours: got %+v, want %+v", hours[0], want)
	}
	if _, err := FindOrder(p.ctx, p.db, "ord_b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("order of a cancelled hold: got %v, want ErrNotFound", err)
	}
}

// TestLateConfirmation holds that an order is an order however late it is projected: nothing asks for the time now.
func TestLateConfirmation(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(stocked(1), created("a", 1), confirmed("a", 1)) // in 2025, with a minute to live
	p.run(0, BuiltIn()...)
	p.await(BuiltIn()...)
	if h, err := FindHold(p.ctx, p.db, "a"); err != nil || h.Status != "CONFIRMED" {
		t.Errorf("got %+v (%v), want it CONFIRMED", h, err)
	}
}

// TestSecondEnd holds that a hold ends once: a second end is parked and changes nothing, whether it comes with the first or
// later.
func TestSecondEnd(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 100} {
		t.Run(fmt.Sprint("batches of ", batchMax), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.journal(created("a", 1), confirmed("a", 1), cancelled("a", 1, events.ReasonRequested))
			p.run(batchMax, Holds())
			p.await(Holds())
			if h, err := FindHold(p.ctx, p.db, "a"); err != nil || h.Status != "CONFIRMED" {
				t.Errorf("got %+v (%v), want it CONFIRMED", h, err)
			}
			if seqs, texts := p.parked("holds"); !slices.Equal(seqs, []int64{3}) {
				t.Errorf("parked %v with %q, want 3", seqs, texts)
			}
		})
	}
}

// history draws events that a shop could have had.
func history(t *rapid.T) []events.Event {
	list, live := []events.Event{stocked(1000)}, []string{}
	qty := map[string]int64{}
	for i := range rapid.IntRange(1, 40).Draw(t, "length") {
		kind := rapid.IntRange(0, 4).Draw(t, "kind")
		if len(live) == 0 && kind > 1 {
			kind = 0
		}
		switch kind {
		case 0:
			id := fmt.Sprint("h", i)
			qty[id] = rapid.Int64Range(1, 5).Draw(t, "qty")
			live = append(live, id)
			list = append(list, created(id, qty[id]))
		case 1:
			list = append(list, stocked(rapid.Int64Range(1, 9).Draw(t, "delta")))
		default:
			at := rapid.IntRange(0, len(live)-1).Draw(t, "which")
			id := live[at]
			live = append(live[:at], live[at+1:]...)
			ends := []events.Event{confirmed(id, qty[id]), cancelled(id, qty[id], events.ReasonRequested), cancelled(id, qty[id], events.ReasonExpired)}
			list = append(list, ends[kind-2])
		}
	}
	return list
}

// TestSums holds that the read tables come to what the events come to, added up plainly.
func TestSums(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	rapid.Check(t, func(rt *rapid.T) {
		p.exec(`TRUNCATE events, checkpoints, stock_levels, sku_hours`)
		p.seq = 0
		list := history(rt)
		p.journal(list...)
		_, stop := p.run(rapid.IntRange(1, 20).Draw(rt, "batch"), StockLevels(), SKUHours())
		p.await(StockLevels(), SKUHours())
		stop()
		wantSums(rt, list, p.rows("stock_levels"), p.texts(`SELECT (sku, sum(reserved), sum(sold), sum(cancelled), sum(expired))::text FROM sku_hours GROUP BY sku`))
	})
}

// wantSums compares stock_levels, and all hours together, with the sum of the events.
func wantSums(t *rapid.T, list []events.Event, levels, hours string) {
	var available, held, reserved, sold, cancelled, expired int64
	for _, event := range list {
		switch e := event.(type) {
		case *events.StockAdjusted:
			available += e.Delta
		case *events.HoldCreated:
			available, held, reserved = available-e.Qty, held+e.Qty, reserved+e.Qty
		case *events.HoldConfirmed:
			held, sold = held-e.Qty, sold+e.Qty
		case *events.HoldCancelled:
			held, available = held-e.Qty, available+e.Qty
			if e.Reason == events.ReasonExpired {
				expired += e.Qty
			} else {
				cancelled += e.Qty
			}
		}
	}
	if want := fmt.Sprintf("(shirt,%d,%d,%d)", available, held, sold); levels != want {
		t.Fatalf("stock_levels: got %s, want %s", levels, want)
	}
	want := fmt.Sprintf("(shirt,%d,%d,%d,%d)", reserved, sold, cancelled, expired)
	if reserved == 0 {
		want = ""
	}
	if hours != want {
		t.Fatalf("sku_hours: got %s, want %s", hours, want)
	}
}
