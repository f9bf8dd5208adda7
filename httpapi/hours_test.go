package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
)

// TestHoursOfSKU checks the answer of /stock/{sku}/hours, and that a range which is
// malformed or too long is refused.
func TestHoursOfSKU(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.exec(`INSERT INTO sku_hours VALUES
		('shirt', '2026-01-02T02:00:00Z', 9, 9, 9, 9, 'main'),
		('shirt', '2026-01-02T04:00:00+01', 4, 1, 2, 0, 'main'),
		('shirt', '2026-01-02T05:00:00Z', 0, 0, 0, 1, 'main'),
		('shirt', '2026-01-02T06:00:00Z', 9, 9, 9, 9, 'main'),
		('jacket', '2026-01-02T05:00:00Z', 9, 9, 9, 9, 'main'),
		('shirt', '2026-01-02T05:00:00Z', 9, 9, 9, 9, 'eu')`)
	const want = `{"sku":"shirt","from":"2026-01-02T03:00:00Z","to":"2026-01-02T06:00:00Z","hours":[` +
		`{"hour":"2026-01-02T03:00:00Z","reserved":4,"sold":1,"cancelled":2,"expired":0},` +
		`{"hour":"2026-01-02T05:00:00Z","reserved":0,"sold":0,"cancelled":0,"expired":1}]}`
	for _, query := range []string{
		"from=2026-01-02T03:00:00Z&to=2026-01-02T06:00:00Z",
		"from=2026-01-02T03:59:59Z&to=2026-01-02T05:00:01Z",
		"from=2026-01-02T05:30:00%2B02:00&to=2026-01-02T06:00:00Z",
	} {
		got := s.get("/stock/shirt/hours?" + query)
		got.want(t, query, 200, "")
		if strings.TrimSpace(got.raw) != want {
			t.Errorf("%s: got %s, want %s", query, got.raw, want)
		}
	}
	lastDay := s.get("/stock/shirt/hours")
	lastDay.want(t, "the last day", 200, "")
	if list, ok := lastDay.body["hours"].([]any); !ok || len(list) != 0 {
		t.Errorf("a day without activity: got %s, want an empty list", lastDay.raw)
	}
	for _, query := range []string{
		"from=yesterday", "to=2026-01-02", "from=2026-01-02T06:00:00Z&to=2026-01-02T06:00:00Z",
		"from=2999-01-01T00:00:00Z",
		"from=2026-01-01T00:00:00Z&to=2026-02-01T01:00:00Z", "to=9999-12-31T23:30:00Z",
		"from=0000-01-01T00:00:00Z&to=0000-01-01T02:00:00Z",
	} {
		s.get("/stock/shirt/hours?"+query).want(t, query, 400, "INVALID_REQUEST")
	}
	s.get("/stock/shirt/hours?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z").want(t, "31 days", 200, "")
	s.exec(`DROP TABLE sku_hours`)
	s.get("/stock/shirt/hours").want(t, "a table that its projection has not created yet", 503, "NOT_READY")
}

// TestHoursRangeDefaults checks the range of hours if a request leaves out one or both
// bounds.
func TestHoursRangeDefaults(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for query, want := range map[string]string{
		"":                                  "2026-01-01T04:00:00Z to 2026-01-02T04:00:00Z",
		"from=2026-01-02T01:30:00Z":         "2026-01-02T01:00:00Z to 2026-01-02T04:00:00Z",
		"to=2026-01-01T00:00:00Z":           "2025-12-31T00:00:00Z to 2026-01-01T00:00:00Z",
		"to=2026-01-01T00:00:00.000000001Z": "2025-12-31T01:00:00Z to 2026-01-01T01:00:00Z",
	} {
		c, _ := gin.CreateTestContext(httptest.NewRecorder())
		c.Request = httptest.NewRequest(http.MethodGet, "/?"+query, nil)
		from, to, err := hoursRange(c, now)
		if err != nil {
			t.Errorf("%q: %v", query, err)
		}
		if got := from.Format(time.RFC3339) + " to " + to.Format(time.RFC3339); got != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
}
