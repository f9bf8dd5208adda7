package projectiontest

import (
	"fmt"
	"testing"

	"github.com/stockstream/stockstream/events"
)

func TestSeedRepeatsItsHistory(t *testing.T) {
	t.Parallel()
	text := func(list []entry) string { return fmt.Sprint(list) }
	for seed := range uint64(200) {
		list := history(seed, 100)
		if text(list) != text(history(seed, 100)) {
			t.Fatalf("seed %d generates two different histories", seed)
		}
		if text(list[:30]) != text(history(seed, 30)) {
			t.Fatalf("seed %d: the short history is not the beginning of the long one", seed)
		}
	}
}

// TestHistoriesAreValid checks that time never goes back, that no stock is negative, that
// holds end once and in time, and that each history has every type of event.
func TestHistoriesAreValid(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		list := history(seed, 100)
		types := map[events.Type]int{}
		available := map[string]int64{}
		active := map[string]entry{} // HOLD_CREATED by hold id
		for i, e := range list {
			if i > 0 && e.at.Before(list[i-1].at) {
				t.Fatalf("seed %d: event %d is earlier than the event before", seed, i+1)
			}
			types[e.event.Type()]++
			switch p := e.event.(type) {
			case *events.StockAdjusted:
				available[p.SKU] += p.Delta
			case *events.HoldCreated:
				available[p.SKU] -= p.Qty
				active[p.HoldID] = e
			case *events.HoldConfirmed:
				wantValidEnd(t, active, p.HoldID, e, true)
			case *events.HoldCancelled:
				available[p.SKU] += p.Qty
				wantValidEnd(t, active, p.HoldID, e, p.Reason != events.ReasonExpired)
			}
			for sku, units := range available {
				if units < 0 {
					t.Fatalf("seed %d: after event %d %d units of %s are available", seed, i+1, units, sku)
				}
			}
		}
		if len(types) != 4 {
			t.Errorf("seed %d: got events of types %v, want all four types", seed, types)
		}
	}
}

// wantValidEnd checks that an event ends an active hold, before or after its deadline as
// beforeDeadline says.
func wantValidEnd(t *testing.T, active map[string]entry, id string, end entry, beforeDeadline bool) {
	t.Helper()
	created, found := active[id]
	if !found {
		t.Fatalf("%s ends a hold that is not active", end)
	}
	delete(active, id)
	ttlMs := created.event.(*events.HoldCreated).TTLMs
	if got := end.at.Sub(created.at).Milliseconds() < ttlMs; got != beforeDeadline {
		t.Fatalf("%s ends %s before its deadline: got %t, want %t", end, created, got, beforeDeadline)
	}
}
