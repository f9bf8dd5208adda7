package main

import (
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestEventful holds that the history has as many live holds as it says, and that no hold ends before it began.
func TestEventful(t *testing.T) {
	t.Parallel()
	for _, want := range []struct{ count, live int }{{100, 0}, {101, 0}, {1000, 0}, {1001, 7}, {1000, 900}, {5000, 500}} {
		next, live := eventful(want.count, want.live), map[string]bool{}
		for range want.count {
			event := next()
			_, id := keysOf(event)
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
			t.Errorf("%+v: %d holds are live", want, len(live))
		}
	}
}
