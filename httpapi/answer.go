package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
)

const (
	positionHeader = "Stockstream-Position"
	replayedHeader = "Idempotency-Replayed"
)

// handle turns a handler that returns its errors into Gin's kind, which answers them.
func (a *api) handle(handler func(*gin.Context) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		if err := handler(c); err != nil {
			a.fail(c, err)
		}
	}
}

// decided answers a command that was taken.
func (a *api) decided(c *gin.Context, status int, position events.Position, replayed bool, body any) error {
	c.Header(positionHeader, position.String())
	if replayed {
		c.Header(replayedHeader, "true")
	}
	return a.write(c, status, body)
}

// plainAnswer is an answer that is worth writing the short way. It is written as encoding/json would.
type plainAnswer interface{ plain() []byte }

func (a *api) write(c *gin.Context, status int, body any) error {
	var raw []byte
	var err error
	if answer, ok := body.(plainAnswer); ok {
		raw = answer.plain()
	} else if raw, err = json.Marshal(body); err != nil {
		return err
	}
	c.Data(status, "application/json", append(raw, '\n'))
	return nil
}

// hangUp asks clients of a process that is about to stop to come back on another connection. Without it, a request
// sent on an idle connection in the moment in which that is closed would be lost on the way.
func (a *api) hangUp(c *gin.Context) {
	if a.draining() {
		c.Header("Connection", "close")
	}
}

// correlate carries the client's own ids into the events that its commands make.
func (a *api) correlate(c *gin.Context) {
	requestID, traceParent := traceHeader(c, "X-Request-Id"), traceHeader(c, "Traceparent")
	if requestID == "" && traceParent == "" {
		return
	}
	metadata := map[string]string{}
	if requestID != "" {
		metadata[journal.MetadataCorrelationID] = requestID
		c.Header("X-Request-Id", requestID)
	}
	if traceParent != "" {
		metadata["traceparent"] = traceParent
	}
	c.Request = c.Request.WithContext(commands.WithMetadata(c.Request.Context(), metadata))
}

// traceHeader returns a header that will be stored with events, or "" for one that should not be.
func traceHeader(c *gin.Context, name string) string {
	value := c.GetHeader(name)
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if len(value) > 128 || strings.IndexFunc(value, unprintable) >= 0 {
		return ""
	}
	return value
}

// livez says that the process answers; nothing else decides whether to restart it.
func (a *api) livez(c *gin.Context) error { return a.write(c, http.StatusOK, gin.H{"status": "alive"}) }
