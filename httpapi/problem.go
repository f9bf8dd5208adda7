package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/projections"
)

// Problem is the body of every answer that is an error (RFC 9457). Code is stable; Title and Detail are for people.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	// Errors names each fault of a request that was refused for its content.
	Errors []commands.FieldError `json:"errors,omitempty"`
	// Available is how many units there are, where that is why the command was refused.
	Available *int64 `json:"available,omitempty"`
}

// requestError is a request that is none: it never reaches a command.
type requestError struct {
	code   string
	detail string
}

func (e *requestError) Error() string { return e.code + ": " + e.detail }

var (
	errUnknownRoute = &requestError{codeUnknownRoute, "there is nothing at this path"}
	errWrongMethod  = &requestError{codeWrongMethod, "this path does not take this method"}
)

// Codes of this package's own; those of commands come with their errors.
const (
	codeInvalid           = "INVALID_REQUEST"
	codeMalformed         = "MALFORMED_BODY"
	codeTooLarge          = "BODY_TOO_LARGE"
	codeContentType       = "WRONG_CONTENT_TYPE"
	codeUnknownRoute      = "UNKNOWN_ROUTE"
	codeWrongMethod       = "WRONG_METHOD"
	codeUnknownOrder      = "UNKNOWN_ORDER"
	codeDetached          = "EVENTS_DETACHED"
	codeUnknownProjection = "UNKNOWN_PROJECTION"
	codeRebuildRuns       = "REBUILD_RUNS"
	codeNoRebuild         = "NO_REBUILD"
	codeOldTablesKept     = "OLD_TABLES_KEPT"
	codeNoOldTables       = "NO_OLD_TABLES"
	codeDependents        = "DEPENDENTS"
	codeJournalHole       = "JOURNAL_HOLE"
	codeUnavailable       = "UNAVAILABLE"
	codeNotReady          = "NOT_READY"
	codeInternal          = "INTERNAL"
)

const retryAfterSeconds = "1"

// statuses is the only place that maps codes to HTTP statuses.
var statuses = map[string]int{
	codeInvalid:            http.StatusBadRequest,
	codeMalformed:          http.StatusBadRequest,
	codeTooLarge:           http.StatusRequestEntityTooLarge,
	codeContentType:        http.StatusUnsupportedMediaType,
	codeUnknownRoute:       http.StatusNotFound,
	codeWrongMethod:        http.StatusMethodNotAllowed,
	codeUnknownOrder:       http.StatusNotFound,
	codeUnknownProjection:  http.StatusNotFound,
	codeNoRebuild:          http.StatusNotFound,
	codeNoOldTables:        http.StatusNotFound,
	codeRebuildRuns:        http.StatusConflict,
	codeOldTablesKept:      http.StatusConflict,
	codeDependents:         http.StatusConflict,
	codeJournalHole:        http.StatusConflict,
	"UNKNOWN_SKU":          http.StatusNotFound,
	"UNKNOWN_HOLD":         http.StatusNotFound,
	"SOLD_OUT":             http.StatusConflict,
	"INSUFFICIENT_STOCK":   http.StatusConflict,
	"STOCK_LIMIT":          http.StatusConflict,
	"HOLD_CONFIRMED":       http.StatusConflict,
	"HOLD_CANCELLED":       http.StatusConflict,
	"HOLD_EXPIRED":         http.StatusGone,
	codeDetached:           http.StatusGone,
	"STATE_INVALID":        http.StatusConflict,
	"IDEMPOTENCY_MISMATCH": http.StatusUnprocessableEntity,
	codeNotReady:           http.StatusServiceUnavailable,
	"STALE":                http.StatusServiceUnavailable,
	codeUnavailable:        http.StatusServiceUnavailable,
	codeInternal:           http.StatusInternalServerError,
}

// fail answers with the problem that an error is.
func (a *api) fail(c *gin.Context, err error) {
	p := problemOf(err)
	switch {
	case p.Status == http.StatusServiceUnavailable:
		c.Header("Retry-After", retryAfterSeconds)
		if requests, tell := a.outages.count(p.Code, time.Now()); tell {
			a.Log.WarnContext(c.Request.Context(), "requests fail", "requests", requests, "code", p.Code, "last", c.Request.Method+" "+c.Request.URL.Path, "error", err)
		}
	case p.Status >= http.StatusInternalServerError:
		a.Log.ErrorContext(c.Request.Context(), "request failed", "method", c.Request.Method, "path", c.Request.URL.Path, "code", p.Code, "error", err)
	}
	if refused := new(commands.Error); errors.As(err, &refused) && refused.Position.Pool != "" {
		c.Header(positionHeader, refused.Position.String())
	}
	body, marshalErr := json.Marshal(p)
	if marshalErr != nil {
		body = []byte(`{"type":"about:blank","status":500,"code":"INTERNAL"}`)
	}
	c.Data(p.Status, "application/problem+json", append(body, '\n'))
	c.Abort()
}

func problemOf(err error) Problem {
	var (
		invalid *commands.ValidationError
		refused *commands.Error
		request *requestError
		p       Problem
	)
	switch {
	case errors.As(err, &invalid):
		p = Problem{Code: codeInvalid, Detail: invalid.Error(), Errors: invalid.Fields}
	case errors.As(err, &refused):
		p = Problem{Code: refused.Code, Detail: refused.Detail}
		if errors.Is(err, commands.ErrSoldOut) || errors.Is(err, commands.ErrInsufficientStock) || errors.Is(err, commands.ErrStockLimit) {
			p.Available = &refused.Available
		}
	case errors.As(err, &request):
		p = Problem{Code: request.code, Detail: request.detail}
	default:
		p = Problem{Code: codeInternal, Detail: "the service failed; its log says why"}
	}
	status, known := statuses[p.Code]
	if !known {
		status = http.StatusInternalServerError
	}
	p.Type, p.Title, p.Status = "about:blank", strings.ReplaceAll(p.Code, "_", " "), status
	return p
}

// readError turns an error of a query into one that this package answers with: what is not there gets the given
// code, and a Postgres that does not answer is no fault of the request.
func readError(err error, unknownCode, detail string) error {
	if errors.Is(err, projections.ErrNotFound) {
		return &requestError{unknownCode, detail}
	}
	if errors.Is(err, projections.ErrTableMissing) {
		return fmt.Errorf("%w: %w", &requestError{codeNotReady, "the read table is not there yet; its projection makes it when it first runs"}, err)
	}
	return fmt.Errorf("%w: %w", &requestError{codeUnavailable, "the read tables cannot be reached; commands are not affected"}, err)
}

// recover answers for a handler that panicked.
func (a *api) recover(c *gin.Context) {
	defer func() {
		if value := recover(); value != nil {
			if value == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
				panic(value)
			}
			a.fail(c, fmt.Errorf("panic: %v\n%s", value, debug.Stack()))
		}
	}()
	c.Next()
}
