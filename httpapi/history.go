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
)

// EventAnswer is an event as the journal has it: what happened, when, and caused by what.
type EventAnswer struct {
	Seq        int64           `json:"seq"`
	Position   string          `json:"position"` // pool and seq, as in main:42
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	Version    int             `json:"version"` // of the payload
	At         time.Time       `json:"at"`      // by Redis's clock, when it was decided
	RecordedAt time.Time       `json:"recorded_at"`
	SKU        string          `json:"sku"`
	HoldID     string          `json:"hold_id"` // "" for an event of no hold
	Payload    json.RawMessage `json:"payload"` // as it was stored
	Metadata   json.RawMessage `json:"metadata"`
	// CausationID and CorrelationID stand in the metadata, too: what made it happen, and the request that began it.
	CausationID   string `json:"causation_id,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
}

// EventsAnswer is a page of events, oldest first.
type EventsAnswer struct {
	Events []EventAnswer `json:"events"`
	// Next is the position to go on after: ?after= with it continues here, now or later, without a gap or a repeat.
	// A page that is not the last for now has a Link rel="next" as well.
	Next string `json:"next"`
}

// NewEventAnswer returns a recorded event in the form in which it is shown.
func NewEventAnswer(r *events.Recorded) EventAnswer {
	causation, correlation := r.Causes()
	return EventAnswer{
		Seq: r.Seq, Position: events.Position{Pool: r.Pool, Seq: r.Seq}.String(), EventID: r.EventID.String(),
		Type: string(r.Type), Version: events.VersionOf(r.Payload), At: r.At.UTC(), RecordedAt: r.RecordedAt.UTC(),
		SKU: r.SKU, HoldID: r.HoldID, Payload: r.Payload, Metadata: r.Metadata,
		CausationID: causation, CorrelationID: correlation,
	}
}

// allEvents serves GET /events: the journal, narrowed by type, sku and hold.
func (a *api) allEvents(c *gin.Context) error {
	return a.history(c, func(q *events.HistoryQuery, faults *[]commands.FieldError) {
		q.SKU, q.HoldID = nameParam(c, "sku", faults), nameParam(c, "hold", faults)
	})
}

// stockEvents serves GET /stock/{sku}/events. A SKU that was never stocked has no events, which is an answer.
func (a *api) stockEvents(c *gin.Context) error {
	return a.history(c, func(q *events.HistoryQuery, faults *[]commands.FieldError) {
		if q.SKU = c.Param("sku"); q.SKU == "" || q.SKU != cleanText(q.SKU) {
			*faults = append(*faults, commands.FieldError{Field: "sku", Message: "is no name"})
		}
	})
}

// holdEvents serves GET /holds/{id}/events.
func (a *api) holdEvents(c *gin.Context) error {
	id := c.Param("id")
	if id == "" || id != cleanText(id) {
		return errNoHistory
	}
	return a.history(c, func(q *events.HistoryQuery, _ *[]commands.FieldError) { q.HoldID = id })
}

var errNoHistory = &requestError{"UNKNOWN_HOLD", "the journal has no event of such a hold; one made this moment appears within a second, and those of parts that were detached are not shown"}

const (
	historyLimit    = 100
	historyLimitMax = 1000
)

// history answers with a page of the journal. Which part of it the route is about is for narrow to say.
func (a *api) history(c *gin.Context, narrow func(*events.HistoryQuery, *[]commands.FieldError)) error {
	var faults []commands.FieldError
	q := a.historyQuery(c, &faults)
	narrow(&q, &faults)
	if len(faults) > 0 {
		return &commands.ValidationError{Fields: faults}
	}
	ctx, cancel := readContext(c)
	defer cancel()
	page, err := events.ReadHistory(ctx, a.Postgres, q)
	if err == nil && c.Param("id") != "" && len(page.Events) == 0 {
		err = a.knowsHold(ctx, q)
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

// knowsHold tells a hold that has no further events from one that has none at all.
func (a *api) knowsHold(ctx context.Context, q events.HistoryQuery) error {
	page, err := events.ReadHistory(ctx, a.Postgres, events.HistoryQuery{Pool: q.Pool, HoldID: q.HoldID, Limit: 1})
	if err == nil && len(page.Events) == 0 {
		return errNoHistory
	}
	return err
}

func historyError(err error) error {
	var known *requestError
	switch {
	case errors.As(err, &known):
		return err
	case errors.Is(err, events.ErrDetached):
		return &requestError{codeDetached, "the journal no longer has the events right after this position; without ?after= it begins where it begins now"}
	}
	return fmt.Errorf("%w: %w", &requestError{codeUnavailable, "the journal cannot be reached; commands are not affected"}, err)
}

func (a *api) position(seq int64) string {
	return events.Position{Pool: a.Pool.Name(), Seq: seq}.String()
}

// historyQuery reads what all routes of the history take: after, limit and type.
func (a *api) historyQuery(c *gin.Context, faults *[]commands.FieldError) events.HistoryQuery {
	add := func(field, message string) {
		*faults = append(*faults, commands.FieldError{Field: field, Message: message})
	}
	q := events.HistoryQuery{Pool: a.Pool.Name(), Limit: historyLimit, Type: events.Type(c.Query("type"))}
	if after := c.Query("after"); after != "" {
		position, err := events.ParsePosition(after)
		if err != nil || position.Pool != q.Pool {
			add("after", "must be a position in the log, as in "+a.position(42))
		}
		q.After = position.Seq
	}
	if limit := c.Query("limit"); limit != "" {
		var err error
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 1 || q.Limit > historyLimitMax {
			add("limit", fmt.Sprintf("must be from 1 to %d", historyLimitMax))
		}
	}
	if q.Type != "" && !events.Known(q.Type) {
		add("type", fmt.Sprintf("must be one of %v", events.Types()))
	}
	return q
}

// nameParam returns a name from the query. One that no store could hold must not narrow to nothing, and so to all.
func nameParam(c *gin.Context, field string, faults *[]commands.FieldError) string {
	name := c.Query(field)
	if name != cleanText(name) {
		*faults = append(*faults, commands.FieldError{Field: field, Message: "is no name"})
	}
	return name
}
