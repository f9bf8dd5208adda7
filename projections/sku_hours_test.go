package projections

import (
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
)

// TestSKUHours holds that everything counts in the hour in which it happened, which begins where it does in UTC.
func TestSKUHours(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.config.RuntimeParams["timezone"] = "Asia/Kathmandu" // where hours begin a quarter before
	p.journal(stocked(20), created("a", 1), created("b", 2), created("c", 4), confirmed("a", 1),
		cancelled("b", 2, events.ReasonRequested), cancelled("c", 4, events.ReasonExpired), created("d", 8))
	for seq, at := range map[int]string{
		2: "2026-01-02T03:00:00Z", 3: "2026-01-02T03:59:59.999Z", 4: "2026-01-02T04:00:00Z", 5: "2026-01-02T04:59:59.999Z",
		6: "2026-01-02T05:00:00Z", 7: "2026-01-02T05:30:00Z", 8: "2026-01-02T05:45:00Z",
	} {
		p.exec(`UPDATE events SET at = $2::text::timestamptz WHERE seq = $1`, seq, at)
	}
	p.run(2, SKUHours())
	p.await(SKUHours())
	three := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	want := []SKUHour{
		{SKU: "shirt", Hour: three, Reserved: 3},
		{SKU: "shirt", Hour: three.Add(time.Hour), Reserved: 4, Sold: 1},
		{SKU: "shirt", Hour: three.Add(2 * time.Hour), Reserved: 8, Cancelled: 2, Expired: 4},
	}
	got, err := FindSKUHours(p.ctx, p.db, "shirt", three, three.Add(3*time.Hour))
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %+v (%v), want %+v", got, err, want)
	}
	for i := range got {
		if got[i].Hour = got[i].Hour.UTC(); got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	if got, err := FindSKUHours(p.ctx, p.db, "shirt", three.Add(time.Hour), three.Add(2*time.Hour)); err != nil || len(got) != 1 {
		t.Errorf("one hour: got %+v (%v)", got, err)
	}
	if got, err := FindSKUHours(p.ctx, p.db, "jacket", three, three.Add(time.Hour)); err != nil || len(got) != 0 {
		t.Errorf("another SKU: got %+v (%v)", got, err)
	}
}
