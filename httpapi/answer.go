package httpapi

import (
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

const (
	positionHeader = "Stockstream-Position"
	replayedHeader = "Idempotency-Replayed"
)

// decided answers a command that was taken.
func (a *api) decided(c *gin.Context, status int, position events.Position, replayed bool, body any) {
	c.Header(positionHeader, position.String())
	if replayed {
		c.Header(replayedHeader, "true")
	}
	a.write(c, status, body)
}

func (a *api) write(c *gin.Context, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Data(status, "application/json", raw)
}

// correlate carries the client's own ids into the events that its commands make.
func (a *api) correlate(c *gin.Context) {
	metadata := map[string]string{}
	for header, name := range map[string]string{"X-Request-Id": "correlation_id", "Traceparent": "traceparent"} {
		if value := c.GetHeader(header); value != "" && len(value) <= 128 && printable(value) {
			metadata[name] = value
		}
	}
	if len(metadata) > 0 {
		if id := metadata["correlation_id"]; id != "" {
			c.Header("X-Request-Id", id)
		}
		c.Request = c.Request.WithContext(commands.WithMetadata(c.Request.Context(), metadata))
	}
	c.Next()
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// livez says that the process answers; nothing else decides whether to restart it.
func (a *api) livez(c *gin.Context) { a.write(c, http.StatusOK, gin.H{"status": "alive"}) }
