package commands

import (
	"fmt"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestStockAdjustedHasTheIdempotencyKey checks that the event of an adjustment has all
// that is needed to answer a repeat, and that a change made by hand is recorded in the
// same version, without a key.
func TestStockAdjustedHasTheIdempotencyKey(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.RedisCommand("SET", "stock:shirt", 3)
	adjustment := AdjustStock{
		SKU:            "shirt",
		Delta:          5,
		Reason:         "delivery",
		IdempotencyKey: "truck-7",
	}
	if _, err := f.AdjustStock(f.Ctx, adjustment); err != nil {
		t.Fatal(err)
	}
	entries, err := f.Operator.XRange(f.Ctx, f.Pool.StreamKey(), "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	wants := []events.StockAdjusted{
		{SKU: "shirt", Delta: 3, Reason: events.ReasonExternal},
		{
			SKU:            "shirt",
			Delta:          5,
			Reason:         "delivery",
			IdempotencyKey: "truck-7",
		},
	}
	if len(entries) != len(wants) {
		t.Fatalf("got %d entries, want %d", len(entries), len(wants))
	}
	latest := events.LatestVersion(events.TypeStockAdjusted)
	for i, want := range wants {
		payload := []byte(fmt.Sprint(entries[i].Values["payload"]))
		if got := events.VersionOf(payload); got != latest {
			t.Errorf("%s: got version %d, want %d", payload, got, latest)
		}
		got, err := events.Decode(events.TypeStockAdjusted, payload)
		if err != nil {
			t.Errorf("%s: %v", payload, err)
			continue
		}
		if *got.(*events.StockAdjusted) != want {
			t.Errorf("%s: got %+v, want %+v", payload, got, want)
		}
	}
}
