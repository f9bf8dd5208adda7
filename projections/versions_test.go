package projections

import (
	"strings"
	"testing"
)

func TestEventsOfEveryVersionAreApplied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journalRaw("STOCK_ADJUSTED", `{"sku":"shirt","delta":5,"reason":"delivery"}`)
	f.journalRaw("STOCK_ADJUSTED", `{"v":1,"sku":"shirt","delta":1,"reason":"found"}`)
	f.journalRaw("STOCK_ADJUSTED",
		`{"v":2,"sku":"shirt","delta":-2,"reason":"broken","idempotency_key":"count-1"}`)
	f.journal(adjusted(10), created("a", 1))
	f.run(0, BuiltIn()...)
	f.await(BuiltIn()...)
	f.wantRows("stock_levels", "(shirt,13,1,0,main)")
	f.wantParked("stock_levels")
}

// TestEventOfNewerVersionIsParked checks that an event that only a newer build can read
// is parked with the later ones of its key, and that projections that do not want it
// continue.
func TestEventOfNewerVersionIsParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(adjusted(5), created("a", 1))
	f.journalRaw("STOCK_ADJUSTED",
		`{"v":3,"sku":"shirt","delta":{"units":4},"reason":"delivery","idempotency_key":"k"}`)
	f.journalRaw("STOCK_ADJUSTED",
		`{"v":2,"sku":"sock","delta":1,"reason":"delivery","idempotency_key":"k2"}`)
	f.journal(confirmed("a", 1))
	f.run(0, BuiltIn()...)
	f.await(BuiltIn()...)
	f.wantRows("stock_levels", "(shirt,4,1,0,main)\n(sock,1,0,0,main)")
	letters := f.wantParked("stock_levels", 3, 5)
	if !strings.Contains(letters[0], "version 3") {
		t.Errorf("letter of event 3: got error %q, want it to name version 3", letters[0])
	}
	if !strings.Contains(letters[1], "waits behind") {
		t.Errorf("letter of event 5: got error %q, want that it waits behind event 3", letters[1])
	}
	f.wantParked("holds")
	f.wantParked("orders")
}
