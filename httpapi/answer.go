package httpapi

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-json" // writes the same bytes as encoding/json, in a third of the time

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
)

const (
	positionHeader = "Stockstream-Position"
	replayedHeader = "Idempotency-Replayed"
)

// handle adapts a handler that returns an error to Gin. It answers an error with its
// problem document. params are the query parameters that the route has.
func (a *api) handle(handler func(*gin.Context) error, params ...string) gin.HandlerFunc {
	return func(c *gin.Context) {
		err := checkQuery(c, params)
		if err == nil {
			err = handler(c)
		}
		if err != nil {
			a.fail(c, err)
		}
	}
}

// decided answers a command that was accepted. replayed is true if this request repeats
// an earlier one, for which the command was accepted.
func (a *api) decided(c *gin.Context, status int, position events.Position, replayed bool, body any) error {
	c.Header(positionHeader, position.String())
	if replayed {
		c.Header(replayedHeader, "true")
	}
	return a.write(c, status, body)
}

func (a *api) write(c *gin.Context, status int, body any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	c.Data(status, "application/json", append(raw, '\n'))
	return nil
}

// hangUp closes the client's connection after the answer if the process is about to stop,
// so that the client opens its next one to another process. Otherwise a request sent just
// when the server closes the idle connection would be lost.
func (a *api) hangUp(c *gin.Context) {
	if a.draining() {
		c.Header("Connection", "close")
	}
}

// echoRequestID answers with the request's X-Request-Id.
func (a *api) echoRequestID(c *gin.Context) {
	if requestID := traceHeader(c, "X-Request-Id"); requestID != "" {
		c.Header("X-Request-Id", requestID)
	}
}

// eventMetadata returns the metadata of the events that the request causes, from its
// headers X-Request-Id and Traceparent; nil if it has neither.
func eventMetadata(c *gin.Context) map[string]string {
	requestID := traceHeader(c, "X-Request-Id")
	traceParent := traceHeader(c, "Traceparent")
	if requestID == "" && traceParent == "" {
		return nil
	}
	metadata := map[string]string{}
	if requestID != "" {
		metadata[journal.MetadataCorrelationID] = requestID
	}
	if traceParent != "" {
		metadata["traceparent"] = traceParent
	}
	return metadata
}

// traceHeader returns a header's value, or "" if the value must not be stored with
// events: it is longer than 128 bytes, or has characters other than printable ASCII.
func traceHeader(c *gin.Context, name string) string {
	value := c.GetHeader(name)
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if len(value) > 128 || strings.IndexFunc(value, unprintable) >= 0 {
		return ""
	}
	return value
}

// livez answers 200 whenever the process can answer. It checks no dependency: restarting
// would not repair one.
func (a *api) livez(c *gin.Context) error { return a.write(c, http.StatusOK, gin.H{"status": "alive"}) }
