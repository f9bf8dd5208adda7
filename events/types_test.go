package events

import "testing"

// TestNames holds the names that operators and other programs rely on.
func TestNames(t *testing.T) {
	t.Parallel()
	eu := Pool{name: "eu", prefix: "{eu}:"}
	for got, want := range map[string]string{
		MainPool.StockKey("a"): "stock:a", MainPool.HoldKey("h"): "hold:h", MainPool.IdempotencyKey("k"): "idem:k",
		MainPool.DueKey(): "holds:due", MainPool.MetaKey(): "inventory.meta", MainPool.StreamKey(): "inventory.events",
		eu.StockKey("a"): "{eu}:stock:a", eu.StreamKey(): "{eu}:inventory.events", ConsumerGroup: "inventory.cg",
		Position{Pool: "main", Seq: 42}.String(): "main:42", OrderID("h"): "ord_h",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if p, err := ParsePosition("main:42"); p != (Position{Pool: "main", Seq: 42}) || err != nil {
		t.Errorf("position: got %v (%v)", p, err)
	}
	for _, bad := range []string{"", "main", "main:", ":1", "main:-1", "main:x", "main:1:2"} {
		if p, err := ParsePosition(bad); err == nil {
			t.Errorf("position %q: got %v, want an error", bad, p)
		}
	}
}
