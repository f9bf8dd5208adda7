package main

import (
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestEventsHaveAsManyLiveHoldsAsAsked checks the number of live holds at the end, and
// that no hold ends before it began.
func TestEventsHaveAsManyLiveHoldsAsAsked(t *testing.T) {
	t.Parallel()
	for _, want := range []struct{ count, live int }{{100, 0}, {101, 0}, {1000, 0}, {1001, 7}, {1000, 900},
		{5000, 500}} {
		next := eventsWithLiveHolds(want.count, want.live)
		live := map[string]bool{}
		for range want.count {
			event := next()
			_, id := skuAndHoldOf(event)
			switch event.(type) {
			case *events.HoldCreated:
				live[id] = true
			case *events.HoldConfirmed, *events.HoldCancelled:
				if !live[id] {
					t.Fatalf("%+v: %s ends before it began", want, id)
				}
				delete(live, id)
			}
		}
		if len(live) != want.live {
			t.Errorf("%+v: got %d live holds", want, len(live))
		}
	}
}
