package projections

import (
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
)

// TestSKUHoursCountsInTheHourOfTheEvent checks that each event counts in its own hour,
// and that hours start as in UTC, in a session of any time zone.
func TestSKUHoursCountsInTheHourOfTheEvent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// UTC+5:45: its hours start 15 minutes later than in UTC
	f.config.RuntimeParams["timezone"] = "Asia/Kathmandu"
	f.journal(
		adjusted(20),
		created("a", 1),
		created("b", 2),
		created("c", 4),
		confirmed("a", 1),
		cancelled("b", 2, events.ReasonRequested),
		cancelled("c", 4, events.ReasonExpired),
		created("d", 8),
	)
	for seq, at := range map[int]string{
		2: "2026-01-02T03:00:00Z",
		3: "2026-01-02T03:59:59.999Z",
		4: "2026-01-02T04:00:00Z",
		5: "2026-01-02T04:59:59.999Z",
		6: "2026-01-02T05:00:00Z",
		7: "2026-01-02T05:30:00Z",
		8: "2026-01-02T05:45:00Z",
	} {
		f.exec(`UPDATE events SET at = $2::text::timestamptz WHERE seq = $1`, seq, at)
	}
	f.run(2, SKUHours())
	f.await(SKUHours())

	three := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	want := []SKUHour{
		{
			SKU:      "shirt",
			Hour:     three,
			Reserved: 3,
			Pool:     "main",
		},
		{
			SKU:      "shirt",
			Hour:     three.Add(time.Hour),
			Reserved: 4,
			Sold:     1,
			Pool:     "main",
		},
		{
			SKU:       "shirt",
			Hour:      three.Add(2 * time.Hour),
			Reserved:  8,
			Cancelled: 2,
			Expired:   4,
			Pool:      "main",
		},
	}
	got := f.hours("shirt", three, three.Add(3*time.Hour))
	if len(got) != len(want) {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	for i := range got {
		got[i].Hour = got[i].Hour.UTC()
		if got[i] != want[i] {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	if got := f.hours("shirt", three.Add(time.Hour), three.Add(2*time.Hour)); len(got) != 1 {
		t.Errorf("one hour: got %+v, want one row", got)
	}
	if got := f.hours("jacket", three, three.Add(time.Hour)); len(got) != 0 {
		t.Errorf("another SKU: got %+v, want no row", got)
	}
}

func (f *fixture) hours(sku string, from, to time.Time) []SKUHour {
	f.t.Helper()
	hours, err := FindSKUHours(f.ctx, f.db, "main", sku, from, to)
	if err != nil {
		f.t.Fatalf("hours of %s: %v", sku, err)
	}
	return hours
}
