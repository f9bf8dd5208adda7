package commands

import (
	"fmt"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestAdjustmentsKeepTheirKey holds that the log has what it takes to answer a repeated adjustment, and that one made
// past this service is recorded in the same version, with no key.
func TestAdjustmentsKeepTheirKey(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.typed("SET", "stock:shirt", 3)
	if _, err := s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: 5, Reason: "delivery", IdempotencyKey: "truck-7"}); err != nil {
		t.Fatal(err)
	}
	entries, err := s.operator.XRange(s.ctx, s.pool.StreamKey(), "-", "+").Result()
	if err != nil || len(entries) != 2 {
		t.Fatalf("got %v (%v), want two entries", entries, err)
	}
	for i, want := range []events.StockAdjusted{
		{SKU: "shirt", Delta: 3, Reason: events.ReasonExternal},
		{SKU: "shirt", Delta: 5, Reason: "delivery", IdempotencyKey: "truck-7"},
	} {
		payload := []byte(fmt.Sprint(entries[i].Values["payload"]))
		if got := events.VersionOf(payload); got != events.LatestVersion(events.TypeStockAdjusted) {
			t.Errorf("%s: got version %d, want the latest", payload, got)
		}
		if got, err := events.Decode(events.TypeStockAdjusted, payload); err != nil || *got.(*events.StockAdjusted) != want {
			t.Errorf("%s: got %+v (%v), want %+v", payload, got, err, want)
		}
	}
}
