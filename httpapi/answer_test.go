package httpapi

import (
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/projections/rebuild"
)

// TestAnswersAreWrittenAsEncodingJSON checks that the library that write uses writes the
// bytes that encoding/json writes.
func TestAnswersAreWrittenAsEncodingJSON(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_764_000_000_123).UTC()
	bodies := []any{
		ReserveAnswer{
			SKU:         "<größe>&\u2028",
			UserID:      "\xff\n\"",
			Qty:         2,
			ExpiresAt:   at,
			ExpiresInMs: -1,
		},
		ConfirmAnswer{OrderID: "ord_h1"},
		HoldAnswer{CreatedAt: at},
		EventAnswer{Payload: json.RawMessage(`{"sku" : "<a>", "n": [1, 2.50]}`)},
		EventsAnswer{},
		Readiness{Journal: &JournalReport{}},
		rebuild.RunRecord{},
		rebuild.RunRecord{
			Projections: []string{"holds"},
			ETASeconds:  1e30,
			Started:     at,
			Finished:    at,
		},
		gin.H{"status": "alive", "also": "<b>"},
	}
	for _, body := range bodies {
		recorder := httptest.NewRecorder()
		c, _ := gin.CreateTestContext(recorder)
		if err := (&api{}).write(c, 200, body); err != nil {
			t.Errorf("%T: %v", body, err)
		}
		want, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		if got := recorder.Body.String(); got != string(want)+"\n" {
			t.Errorf("%T: got %s, want %s", body, got, want)
		}
	}
}
