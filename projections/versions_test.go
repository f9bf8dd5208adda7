package projections

import (
	"slices"
	"strings"
	"testing"
)

// TestEveryVersion holds that a read model cannot tell in which version an event was written.
func TestEveryVersion(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journalRaw("STOCK_ADJUSTED", `{"sku":"shirt","delta":5,"reason":"delivery"}`)
	p.journalRaw("STOCK_ADJUSTED", `{"v":1,"sku":"shirt","delta":1,"reason":"found"}`)
	p.journalRaw("STOCK_ADJUSTED", `{"v":2,"sku":"shirt","delta":-2,"reason":"broken","idempotency_key":"count-1"}`)
	p.journal(stocked(10), created("a", 1))
	p.run(0, BuiltIn()...)
	p.await(BuiltIn()...)
	if got, want := p.rows("stock_levels"), "(shirt,13,1,0)"; got != want {
		t.Errorf("stock_levels: got %s, want %s", got, want)
	}
	if seqs, faults := p.parked("stock_levels"); len(seqs) > 0 {
		t.Errorf("parked %v with %q, want nothing", seqs, faults)
	}
}

// TestNewerVersion holds that an event which only a newer build can read is parked with what comes after it, and
// neither skipped nor read as far as it goes; and that readers which do not want it go on.
func TestNewerVersion(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(stocked(5), created("a", 1))
	p.journalRaw("STOCK_ADJUSTED", `{"v":3,"sku":"shirt","delta":{"units":4},"reason":"delivery","idempotency_key":"k"}`)
	p.journalRaw("STOCK_ADJUSTED", `{"v":2,"sku":"sock","delta":1,"reason":"delivery","idempotency_key":"k2"}`)
	p.journal(confirmed("a", 1))
	p.run(0, BuiltIn()...)
	p.await(BuiltIn()...)
	if got, want := p.rows("stock_levels"), "(shirt,4,1,0)\n(sock,1,0,0)"; got != want {
		t.Errorf("stock_levels: got %s, want %s", got, want)
	}
	seqs, faults := p.parked("stock_levels")
	if !slices.Equal(seqs, []int64{3, 5}) || !strings.Contains(faults[0], "version 3") || !strings.Contains(faults[1], "waits behind") {
		t.Errorf("parked %v with %q, want 3 for its version and 5 behind it", seqs, faults)
	}
	for _, reader := range []string{"holds", "orders"} {
		if seqs, faults := p.parked(reader); len(seqs) > 0 {
			t.Errorf("%s parked %v with %q, want nothing", reader, seqs, faults)
		}
	}
}
