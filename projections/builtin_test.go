package projections

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
)

// TestBuiltInShowsHowHoldsEnd projects a hold that ends in each way, and one that does
// not end.
func TestBuiltInShowsHowHoldsEnd(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(adjusted(10), created("a", 1), created("b", 2), created("c", 3), created("d", 1))
	f.run(3, BuiltIn()...)
	f.await(BuiltIn()...)
	f.journal(
		confirmed("a", 1),
		cancelled("b", 2, events.ReasonRequested),
		cancelled("c", 3, events.ReasonExpired),
	)
	f.await(BuiltIn()...)

	f.wantRows("stock_levels", "(shirt,8,1,1,main)")
	f.wantHold("a", "CONFIRMED")
	f.wantHold("b", "CANCELLED")
	f.wantHold("c", "EXPIRED")
	f.wantHold("d", "ACTIVE")
	f.wantFirstRows()
}

// wantFirstRows checks every column of one row of each table that
// TestBuiltInShowsHowHoldsEnd fills.
func (f *fixture) wantFirstRows() {
	f.t.Helper()
	h, err := FindHold(f.ctx, f.db, "main", "b")
	if err != nil {
		f.t.Errorf("hold b: %v", err)
	}
	h.CreatedAt = h.CreatedAt.UTC()
	h.ExpiresAt = h.ExpiresAt.UTC()
	wantHold := Hold{
		HoldID:         "b",
		SKU:            "shirt",
		Qty:            2,
		UserID:         "ann",
		Status:         "CANCELLED",
		ExpiresAt:      startTime.Add(63 * time.Second),
		CreatedAt:      startTime.Add(3 * time.Second),
		IdempotencyKey: "k-b",
		Pool:           "main",
	}
	if h != wantHold {
		f.t.Errorf("hold b: got %+v, want %+v", h, wantHold)
	}

	order, err := FindOrderOfHold(f.ctx, f.db, "main", "a")
	if err != nil {
		f.t.Errorf("order of hold a: %v", err)
	}
	order.CreatedAt = order.CreatedAt.UTC()
	wantOrder := Order{
		OrderID:    "ord_a",
		HoldID:     "a",
		UserID:     "ann",
		SKU:        "shirt",
		Qty:        1,
		Status:     "CONFIRMED",
		PaymentRef: "pay-a",
		CreatedAt:  startTime.Add(6 * time.Second),
		Pool:       "main",
	}
	if order != wantOrder {
		f.t.Errorf("order of hold a: got %+v, want %+v", order, wantOrder)
	}
	byID, err := FindOrder(f.ctx, f.db, "main", "ord_a")
	if err != nil {
		f.t.Errorf("order ord_a: %v", err)
	}
	if byID.HoldID != "a" {
		f.t.Errorf("order ord_a: got hold %q, want a", byID.HoldID)
	}
	if _, err := FindOrder(f.ctx, f.db, "main", "ord_b"); !errors.Is(err, ErrNotFound) {
		f.t.Errorf("order of a cancelled hold: got error %v, want ErrNotFound", err)
	}

	hours := f.hours("shirt", startTime.Add(-time.Hour), startTime.Add(time.Hour))
	if len(hours) != 1 {
		f.t.Fatalf("hours: got %+v, want one", hours)
	}
	hours[0].Hour = hours[0].Hour.UTC()
	wantHour := SKUHour{
		SKU:       "shirt",
		Hour:      startTime.Truncate(time.Hour),
		Reserved:  7,
		Sold:      1,
		Cancelled: 2,
		Expired:   3,
		Pool:      "main",
	}
	if hours[0] != wantHour {
		f.t.Errorf("hours: got %+v, want %+v", hours[0], wantHour)
	}
}

// TestConfirmationIsProjectedAfterTheDeadline projects a hold whose deadline passed long
// ago: projections compare no deadline with the clock.
func TestConfirmationIsProjectedAfterTheDeadline(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(adjusted(1), created("a", 1), confirmed("a", 1)) // in 2025, with a deadline one minute later
	f.run(0, BuiltIn()...)
	f.await(BuiltIn()...)
	f.wantHold("a", "CONFIRMED")
}

// TestSecondEndOfHoldIsParked checks that a second end of a hold is parked and changes no
// row, whether it arrives in the batch of the first end or later.
func TestSecondEndOfHoldIsParked(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 100} {
		t.Run(fmt.Sprint("batches of ", batchMax), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.journal(created("a", 1), confirmed("a", 1), cancelled("a", 1, events.ReasonRequested))
			f.run(batchMax, Holds())
			f.await(Holds())
			f.wantHold("a", "CONFIRMED")
			f.wantParked("holds", 3)
		})
	}
}

// drawHistory draws a valid history of one SKU.
func drawHistory(t *rapid.T) []events.Event {
	list := []events.Event{adjusted(1000)}
	active := []string{} // ids of holds
	qty := map[string]int64{}
	for i := range rapid.IntRange(1, 40).Draw(t, "length") {
		kind := rapid.IntRange(0, 4).Draw(t, "kind")
		if len(active) == 0 && kind > 1 {
			kind = 0
		}
		switch kind {
		case 0:
			id := fmt.Sprint("h", i)
			qty[id] = rapid.Int64Range(1, 5).Draw(t, "qty")
			active = append(active, id)
			list = append(list, created(id, qty[id]))
		case 1:
			list = append(list, adjusted(rapid.Int64Range(1, 9).Draw(t, "delta")))
		default:
			at := rapid.IntRange(0, len(active)-1).Draw(t, "which")
			id := active[at]
			active = append(active[:at], active[at+1:]...)
			ends := []events.Event{
				confirmed(id, qty[id]),
				cancelled(id, qty[id], events.ReasonRequested),
				cancelled(id, qty[id], events.ReasonExpired),
			}
			list = append(list, ends[kind-2])
		}
	}
	return list
}

// TestReadTablesHaveTheSumsOfTheEvents compares stock_levels and sku_hours with a plain
// addition of the events.
func TestReadTablesHaveTheSumsOfTheEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const sumsOfHours = `
		SELECT (sku, sum(reserved), sum(sold), sum(cancelled), sum(expired))::text FROM sku_hours GROUP BY sku`
	rapid.Check(t, func(rt *rapid.T) {
		f.exec(`TRUNCATE events, checkpoints, stock_levels, sku_hours`)
		f.seq = 0
		list := drawHistory(rt)
		f.journal(list...)
		_, stop := f.run(rapid.IntRange(1, 20).Draw(rt, "batch"), StockLevels(), SKUHours())
		f.await(StockLevels(), SKUHours())
		stop()
		wantSums(rt, list, f.rows("stock_levels"), f.texts(sumsOfHours))
	})
}

// wantSums compares the row of stock_levels, and the sums of all hours, with the sums of
// the events.
func wantSums(t *rapid.T, list []events.Event, levels, hours string) {
	var level stockDelta
	var total SKUHour
	for _, event := range list {
		switch e := event.(type) {
		case *events.StockAdjusted:
			level.available += e.Delta
		case *events.HoldCreated:
			level.available -= e.Qty
			level.held += e.Qty
			total.Reserved += e.Qty
		case *events.HoldConfirmed:
			level.held -= e.Qty
			level.sold += e.Qty
			total.Sold += e.Qty
		case *events.HoldCancelled:
			level.held -= e.Qty
			level.available += e.Qty
			if e.Reason == events.ReasonExpired {
				total.Expired += e.Qty
			} else {
				total.Cancelled += e.Qty
			}
		}
	}
	wantLevels := fmt.Sprintf("(shirt,%d,%d,%d,main)", level.available, level.held, level.sold)
	if levels != wantLevels {
		t.Fatalf("stock_levels: got %s, want %s", levels, wantLevels)
	}
	wantHours := fmt.Sprintf("(shirt,%d,%d,%d,%d)", total.Reserved, total.Sold, total.Cancelled,
		total.Expired)
	if total.Reserved == 0 {
		wantHours = ""
	}
	if hours != wantHours {
		t.Fatalf("sku_hours: got %s, want %s", hours, wantHours)
	}
}
