package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
)

// BenchmarkDecode reads the body of a reservation.
func BenchmarkDecode(b *testing.B) {
	body := reservation("ttl_seconds", "120")
	c, _ := gin.CreateTestContext(httptest.NewRecorder())
	c.Request = httptest.NewRequest(http.MethodPost, "/holds", nil)
	c.Request.Header.Set("Content-Type", "application/json")
	c.Request.ContentLength = int64(len(body))
	reader := strings.NewReader(body)
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		c.Request.Body = io.NopCloser(reader)
		var request ReserveRequest
		if err := decode(c, &request, false); err != nil {
			b.Fatal(err)
		}
	}
}
