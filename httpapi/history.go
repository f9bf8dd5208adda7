package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
)

// EventAnswer is one event of the journal.
type EventAnswer struct {
	Seq        int64           `json:"seq"`
	Position   string          `json:"position"` // pool and seq, such as main:42
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	Version    int             `json:"version"` // the payload's schema version
	At         time.Time       `json:"at"`      // when the command was decided, by Redis's clock
	RecordedAt time.Time       `json:"recorded_at"`
	SKU        string          `json:"sku"`
	HoldID     string          `json:"hold_id"` // "" if the event concerns no hold
	Payload    json.RawMessage `json:"payload"` // exactly as stored
	Metadata   json.RawMessage `json:"metadata"`
	// CausationID is the id of the direct cause of the event, and CorrelationID the id of
	// the client's request. Both are also in Metadata.
	CausationID   string `json:"causation_id,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
}

// EventsAnswer is a page of events, oldest first.
type EventsAnswer struct {
	Events []EventAnswer `json:"events"`
	// Next is the position of the end of this page: ?after=<next> reads on from there,
	// now or later, without a gap or a repeat. If there are more events now, the answer
	// also has a Link header with rel="next".
	Next string `json:"next"`
}

// NewEventAnswer returns the answer for one event of the journal.
func NewEventAnswer(r *journal.Recorded) EventAnswer {
	causation, correlation := r.Causes()
	return EventAnswer{
		Seq:           r.Seq,
		Position:      events.Position{Pool: r.Pool, Seq: r.Seq}.String(),
		EventID:       r.EventID.String(),
		Type:          string(r.Type),
		Version:       events.VersionOf(r.Payload),
		At:            r.At.UTC(),
		RecordedAt:    r.RecordedAt.UTC(),
		SKU:           r.SKU,
		HoldID:        r.HoldID,
		Payload:       r.Payload,
		Metadata:      r.Metadata,
		CausationID:   causation,
		CorrelationID: correlation,
	}
}

// allEvents serves GET /events?type=…&sku=…&hold=…: the events of the journal that match
// all filters given.
func (a *api) allEvents(c *gin.Context) error {
	return a.history(c, func(q *journal.HistoryQuery, f *commands.Faults) {
		if q.SKU = c.Query("sku"); q.SKU != "" {
			f.SKU("sku", q.SKU)
		}
		if q.HoldID = c.Query("hold"); q.HoldID != "" {
			f.HoldID("hold", q.HoldID)
		}
	})
}

// stockEvents serves GET /stock/{sku}/events. For a SKU without events it answers an
// empty page, not 404.
func (a *api) stockEvents(c *gin.Context) error {
	return a.history(c, func(q *journal.HistoryQuery, f *commands.Faults) {
		q.SKU = c.Param("sku")
		f.SKU("sku", q.SKU)
	})
}

// holdEvents serves GET /holds/{id}/events. It answers 404 if the journal has no event of
// the hold.
func (a *api) holdEvents(c *gin.Context) error {
	return a.history(c, func(q *journal.HistoryQuery, f *commands.Faults) {
		q.HoldID = c.Param("id")
		f.HoldID("hold_id", q.HoldID)
	})
}

// errNoHistory is returned for a hold without events in the journal.
var errNoHistory = &requestError{
	code: codeUnknownHold,
	detail: "the journal has no event of this hold; events of a new hold appear within a second, " +
		"and events of detached partitions are not shown",
}

const (
	historyLimit    = 100
	historyLimitMax = 1000
)

// history answers with a page of the journal. narrow adds the route's own filters to the
// query.
func (a *api) history(c *gin.Context, narrow func(*journal.HistoryQuery, *commands.Faults)) error {
	var f commands.Faults
	q := a.historyQuery(c, &f)
	narrow(&q, &f)
	if f.Err() != nil {
		return f.Err()
	}
	ctx, cancel := readContext(c)
	defer cancel()
	page, err := journal.ReadHistory(ctx, a.Postgres, q)
	if err == nil && c.Param("id") != "" && len(page.Events) == 0 {
		err = a.requireHold(ctx, q)
	}
	if err == nil && q.After > page.End {
		err = a.requireInLog(ctx, q.After)
	}
	if err != nil {
		return historyError(err)
	}
	answer := EventsAnswer{Events: make([]EventAnswer, len(page.Events)), Next: a.position(page.Next)}
	for i := range page.Events {
		answer.Events[i] = NewEventAnswer(&page.Events[i])
	}
	if page.More {
		next := *c.Request.URL
		params := next.Query()
		params.Set("after", answer.Next)
		next.RawQuery = params.Encode()
		c.Header("Link", "<"+next.RequestURI()+`>; rel="next"`)
	}
	return a.write(c, http.StatusOK, answer)
}

// requireHold returns errNoHistory unless the journal has any event of the query's hold,
// filtered out or not.
func (a *api) requireHold(ctx context.Context, q journal.HistoryQuery) error {
	page, err := journal.ReadHistory(ctx, a.Postgres, journal.HistoryQuery{
		Pool:   q.Pool,
		HoldID: q.HoldID,
		Limit:  1,
	})
	if err == nil && len(page.Events) == 0 {
		return errNoHistory
	}
	return err
}

// requireInLog returns an error if Redis's log ends before a seq at which the journal has
// not arrived. A client that waits for the events after it has mixed up two
// installations, or it read events that were lost since. If Redis does not say where its
// log ends, the seq may be right.
func (a *api) requireInLog(ctx context.Context, seq int64) error {
	ctx, cancel := context.WithTimeout(ctx, logHeadTimeout)
	defer cancel()
	head, err := stream.ReadHead(ctx, a.Redis, a.Pool)
	if err != nil || !head.Exists || seq <= head.Seq {
		return nil // history does not need Redis
	}
	return invalid("after", "is beyond the end of the log, "+a.position(head.Seq))
}

const logHeadTimeout = time.Second

// historyError turns an error of the journal into one with a code of this package.
func historyError(err error) error {
	var known *requestError
	var invalid *commands.ValidationError
	switch {
	case errors.As(err, &known), errors.As(err, &invalid):
		return err
	case errors.Is(err, journal.ErrDetached):
		return &requestError{
			code: codeDetached,
			detail: "the journal no longer has the events right after this position; " +
				"leave out ?after= to read from its first event",
		}
	}
	problem := &requestError{codeUnavailable, "the journal cannot be reached; commands are not affected"}
	return fmt.Errorf("%w: %w", problem, err)
}

// position returns the position of a seq in this API's pool, such as main:42.
func (a *api) position(seq int64) string {
	return events.Position{Pool: a.Pool.Name(), Seq: seq}.String()
}

// historyQuery reads the query parameters that all history routes share: after, limit and
// type.
func (a *api) historyQuery(c *gin.Context, f *commands.Faults) journal.HistoryQuery {
	q := journal.HistoryQuery{
		Pool:  a.Pool.Name(),
		Limit: historyLimit,
		Type:  events.Type(c.Query("type")),
	}
	if after := c.Query("after"); after != "" {
		position, err := events.ParsePosition(after)
		if err != nil || position.Pool != q.Pool {
			f.Add("after", "must be a position in the log, such as %s", a.position(42))
		}
		q.After = position.Seq
	}
	if limit := c.Query("limit"); limit != "" {
		var err error
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 1 || q.Limit > historyLimitMax {
			f.Add("limit", "must be from 1 to %d", historyLimitMax)
		}
	}
	if q.Type != "" && !events.Known(q.Type) {
		f.Add("type", "must be one of %v", events.Types())
	}
	return q
}
