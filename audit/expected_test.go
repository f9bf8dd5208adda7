package audit

import (
	"slices"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestExpectedStateTracksKeysPastTheEnd checks which keys the expected state tracks up to
// the audit's end and past it, and that it reports events that are impossible.
func TestExpectedStateTracksKeysPastTheEnd(t *testing.T) {
	t.Parallel()
	var reported []Difference
	e := newExpected(false, func(d Difference) { reported = append(reported, d) })
	seq := int64(0)
	apply := func(eventType events.Type, hold string, qty int64) {
		seq++
		e.apply(&journalEvent{
			seq:       seq,
			eventType: eventType,
			sku:       "shirt",
			hold:      hold,
			qty:       qty,
			user:      "ann",
			ttlMs:     5,
			ref:       "r",
			atMs:      100 + seq,
		})
	}

	apply(events.TypeStockAdjusted, "", 10)
	apply(events.TypeStockAdjusted, "", -1)
	apply(events.TypeHoldCreated, "a", 2)
	apply(events.TypeHoldCreated, "b", 3)
	apply(events.TypeHoldConfirmed, "a", 2)
	stock := *e.stock["shirt"]
	if want := (expectedStock{
		Received: 10,
		Removed:  1,
		Held:     3,
		Sold:     2,
	}); stock != want {
		t.Errorf("got stock %+v, want %+v", stock, want)
	}
	if stock.Available() != 4 {
		t.Errorf("got %d available, want 4", stock.Available())
	}
	if len(e.ended) != 1 {
		t.Fatalf("got %d ended holds, want 1", len(e.ended))
	}
	ended := e.ended[0]
	if ended.Status != statusConfirmed {
		t.Errorf("got status %s of the ended hold, want CONFIRMED", ended.Status)
	}
	if ended.EndedSeq != 5 {
		t.Errorf("got end at seq %d, want 5", ended.EndedSeq)
	}
	if ended.PaymentRef != "r" {
		t.Errorf("got payment reference %q, want r", ended.PaymentRef)
	}
	if e.holds["b"] == nil {
		t.Error("the live hold b is not tracked")
	}
	if len(e.holds) != 1 {
		t.Errorf("got %d tracked holds, want only the live hold b", len(e.holds))
	}

	e.pastEnd = true
	apply(events.TypeHoldCreated, "c", 1)
	apply(events.TypeHoldCancelled, "c", 1)
	apply(events.TypeHoldCancelled, "b", 3)
	if e.holds["c"] != nil {
		t.Errorf("past the end: got hold c %+v, want it untracked", e.holds["c"])
	}
	if e.holds["b"].Status != statusCancelled {
		t.Errorf("past the end: got status %s of hold b, want CANCELLED", e.holds["b"].Status)
	}
	if e.totals.live != 0 {
		t.Errorf("past the end: got %d live holds, want 0", e.totals.live)
	}
	if len(reported) != 0 {
		t.Errorf("got %+v, want no difference", reported)
	}

	apply(events.TypeHoldCancelled, "b", 3) // it has ended already
	e.apply(&journalEvent{
		seq:       99,
		eventType: events.TypeStockAdjusted,
		sku:       "shirt",
		qty:       -50,
	})
	var kinds []Kind
	for _, d := range reported {
		kinds = append(kinds, d.Kind)
	}
	if want := []Kind{KindImpossible, KindHole, KindImpossible}; !slices.Equal(kinds, want) {
		t.Errorf("got %+v, want %v: a hold that ends twice, a missing seq, and stock below zero",
			reported, want)
	}
}
