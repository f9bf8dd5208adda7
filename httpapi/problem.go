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

// Problem is the body of every error answer (RFC 9457). Programs may rely on Code; Title
// and Detail are for people.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail,omitempty"`
	// Errors lists the invalid fields of an INVALID_REQUEST.
	Errors []commands.FieldError `json:"errors,omitempty"`
	// Available is the number of units left, if the command was refused because of that
	// number.
	Available *int64 `json:"available,omitempty"`
}

// requestError is an error with one of this package's codes. Commands return
// *commands.Error instead.
type requestError struct {
	code   string
	detail string
}

func (e *requestError) Error() string { return e.code + ": " + e.detail }

var errWrongMethod = &requestError{codeWrongMethod, "this path does not take this method"}

// Codes of the problems that only this package finds. Every other code is that of an
// error of package commands.
const (
	codeInvalid           = "INVALID_REQUEST"
	codeMalformed         = "MALFORMED_BODY"
	codeTooLarge          = "BODY_TOO_LARGE"
	codeContentType       = "WRONG_CONTENT_TYPE"
	codeWrongHost         = "WRONG_HOST"
	codeCrossOrigin       = "CROSS_ORIGIN"
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
	codeInternal          = "INTERNAL"
)

// Codes of package commands that this package also uses for problems of its own.
var (
	codeUnknownSKU  = commands.ErrUnknownSKU.Code
	codeUnknownHold = commands.ErrUnknownHold.Code
	codeUnavailable = commands.ErrUnavailable.Code
	codeNotReady    = commands.ErrNotReady.Code
)

const retryAfterSeconds = "1" // the Retry-After header of every 503

// statuses maps each code to its HTTP status.
var statuses = map[string]int{
	codeInvalid:           http.StatusBadRequest,
	codeMalformed:         http.StatusBadRequest,
	codeTooLarge:          http.StatusRequestEntityTooLarge,
	codeContentType:       http.StatusUnsupportedMediaType,
	codeWrongHost:         http.StatusMisdirectedRequest,
	codeCrossOrigin:       http.StatusForbidden,
	codeUnknownRoute:      http.StatusNotFound,
	codeWrongMethod:       http.StatusMethodNotAllowed,
	codeUnknownOrder:      http.StatusNotFound,
	codeUnknownProjection: http.StatusNotFound,
	codeNoRebuild:         http.StatusNotFound,
	codeNoOldTables:       http.StatusNotFound,
	codeRebuildRuns:       http.StatusConflict,
	codeOldTablesKept:     http.StatusConflict,
	codeDependents:        http.StatusConflict,
	codeJournalHole:       http.StatusConflict,
	codeDetached:          http.StatusGone,
	codeInternal:          http.StatusInternalServerError,

	codeUnknownSKU:                       http.StatusNotFound,
	codeUnknownHold:                      http.StatusNotFound,
	commands.ErrSoldOut.Code:             http.StatusConflict,
	commands.ErrInsufficientStock.Code:   http.StatusConflict,
	commands.ErrStockLimit.Code:          http.StatusConflict,
	commands.ErrHoldConfirmed.Code:       http.StatusConflict,
	commands.ErrHoldCancelled.Code:       http.StatusConflict,
	commands.ErrHoldExpired.Code:         http.StatusGone,
	commands.ErrStateInvalid.Code:        http.StatusConflict,
	commands.ErrIdempotencyMismatch.Code: http.StatusUnprocessableEntity,
	codeNotReady:                         http.StatusServiceUnavailable,
	commands.ErrOtherServer.Code:         http.StatusServiceUnavailable,
	commands.ErrStale.Code:               http.StatusServiceUnavailable,
	commands.ErrJournalBehind.Code:       http.StatusServiceUnavailable,
	codeUnavailable:                      http.StatusServiceUnavailable,
}

// fail answers with the problem document for err, and logs the errors that are not the
// client's.
func (a *api) fail(c *gin.Context, err error) {
	p := problemOf(err)
	switch {
	case p.Status == http.StatusServiceUnavailable:
		c.Header("Retry-After", retryAfterSeconds)
		if requests, logNow := a.failures.count(p.Code, time.Now()); logNow {
			last := c.Request.Method + " " + c.Request.URL.Path
			a.Log.WarnContext(c.Request.Context(), "requests fail",
				"requests", requests, "code", p.Code, "last", last, "error", err)
		}
	case p.Status >= http.StatusInternalServerError:
		a.Log.ErrorContext(c.Request.Context(), "request failed",
			"method", c.Request.Method, "path", c.Request.URL.Path, "code", p.Code, "error", err)
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

// problemOf returns the problem document for err. An error without a code is INTERNAL,
// and its text stays in the log.
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
		if dependsOnStock(refused) {
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
	p.Type = "about:blank"
	p.Title = strings.ReplaceAll(p.Code, "_", " ")
	p.Status = status
	return p
}

// dependsOnStock reports whether a command was refused because of the number of units
// left.
func dependsOnStock(refused *commands.Error) bool {
	return errors.Is(refused, commands.ErrSoldOut) ||
		errors.Is(refused, commands.ErrInsufficientStock) ||
		errors.Is(refused, commands.ErrStockLimit)
}

// readError turns an error of a read table's query into one with a code of this package.
// A row that does not exist gets the given code and detail; any other failure is
// UNAVAILABLE or NOT_READY.
func readError(err error, unknownCode, detail string) error {
	if errors.Is(err, projections.ErrNotFound) {
		return &requestError{unknownCode, detail}
	}
	problem := &requestError{codeUnavailable, "the read tables cannot be reached; commands are not affected"}
	if errors.Is(err, projections.ErrTableMissing) {
		problem = &requestError{
			code:   codeNotReady,
			detail: "the read table does not exist yet; its projection creates it at its first run",
		}
	}
	return fmt.Errorf("%w: %w", problem, err)
}

// recover answers 500 if a handler panics.
func (a *api) recover(c *gin.Context) {
	defer func() {
		if value := recover(); value != nil {
			if value == http.ErrAbortHandler { //nolint:errorlint // net/http compares it in the same way
				panic(value)
			}
			a.fail(c, fmt.Errorf("panic: %v\n%s", value, debug.Stack()))
		}
	}()
	c.Next()
}
