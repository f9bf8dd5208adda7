package commands

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Error is the refusal of a command. Its Code is stable and part of the API; errors.Is
// compares only that.
type Error struct {
	Code   string
	Detail string
	// Available is the SKU's stock in units, for SOLD_OUT, INSUFFICIENT_STOCK and
	// STOCK_LIMIT.
	Available int64
	// Position is the end of the log at the moment of the decision, or zero if no
	// decision was made.
	Position events.Position
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

// Is reports whether target is an *Error with the same code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// The refusals of the package.
var (
	ErrSoldOut           = &Error{Code: "SOLD_OUT", Detail: "fewer units are available than were asked for"}
	ErrInsufficientStock = &Error{
		Code:   "INSUFFICIENT_STOCK",
		Detail: "fewer units are available than the adjustment takes away",
	}
	ErrStockLimit = &Error{
		Code:   "STOCK_LIMIT",
		Detail: "the stock of one SKU is limited to 1000000000000 units",
	}
	ErrUnknownSKU  = &Error{Code: "UNKNOWN_SKU", Detail: "this SKU was never stocked"}
	ErrUnknownHold = &Error{
		Code:   "UNKNOWN_HOLD",
		Detail: "no hold has this id, or it ended too long ago",
	}
	ErrHoldConfirmed       = &Error{Code: "HOLD_CONFIRMED", Detail: "the hold was already confirmed"}
	ErrHoldCancelled       = &Error{Code: "HOLD_CANCELLED", Detail: "the hold was cancelled"}
	ErrHoldExpired         = &Error{Code: "HOLD_EXPIRED", Detail: "the hold's deadline has passed"}
	ErrNotDue              = &Error{Code: "NOT_DUE", Detail: "the hold's deadline has not passed yet"}
	ErrIdempotencyMismatch = &Error{
		Code:   "IDEMPOTENCY_MISMATCH",
		Detail: "the idempotency key was already used for a different request",
	}
	ErrStateInvalid = &Error{Code: "STATE_INVALID", Detail: "a key in Redis has an invalid value"}
	ErrNotReady     = &Error{Code: "NOT_READY", Detail: "the pool is not open for commands"}
	// ErrOtherServer is returned until Redis was compared with the journal.
	ErrOtherServer = &Error{
		Code:   "OTHER_SERVER",
		Detail: "Redis restarted, or another Redis took its place; it is being compared with the journal",
	}
	ErrStale = &Error{
		Code:   "STALE",
		Detail: "Redis's log ends before a position that Redis acknowledged earlier",
	}
	// ErrJournalBehind is returned for a reserve, and for added stock, while too many
	// events wait for the journal.
	ErrJournalBehind = &Error{
		Code:   "JOURNAL_BEHIND",
		Detail: "too many events wait to be journaled; " + outcomeNone,
	}
	// ErrUnavailable is returned if Redis did not answer, or answered with an error. The
	// detail says whether the outcome of a command is unknown.
	ErrUnavailable = &Error{Code: "UNAVAILABLE", Detail: "Redis gave no answer"}
)

// The outcomes of a command that was not decided. They are the end of the detail of
// ErrUnavailable, ErrNotReady, ErrOtherServer and ErrStale.
const (
	outcomeNone    = "nothing was changed by this request"
	outcomeUnknown = "the outcome is unknown: repeat the request with the same Idempotency-Key, if it has one"
)

// unknownOutcomeError is the error of a command that may have been decided.
type unknownOutcomeError struct{ error }

func (e *unknownOutcomeError) Unwrap() error { return e.error }

// withOutcome returns err with the outcome in its detail, if it says that the command was
// not decided.
func withOutcome(err error, outcome string) error {
	var e *Error
	if !errors.As(err, &e) || !RefusesEveryCommand(e) && !errors.Is(e, ErrUnavailable) {
		return err
	}
	complete := *e
	complete.Detail += "; " + outcome
	if e == err { //nolint:errorlint // the error itself, not one that it wraps
		return &complete
	}
	return fmt.Errorf("%w: %w", &complete, err)
}

// refusals maps the scripts' status words to errors. No other code maps them.
var refusals = map[string]*Error{
	statusSoldOut:             ErrSoldOut,
	statusInsufficientStock:   ErrInsufficientStock,
	statusStockLimit:          ErrStockLimit,
	statusUnknownSKU:          ErrUnknownSKU,
	statusUnknownHold:         ErrUnknownHold,
	statusHoldConfirmed:       ErrHoldConfirmed,
	statusHoldCancelled:       ErrHoldCancelled,
	statusHoldExpired:         ErrHoldExpired,
	statusNotDue:              ErrNotDue,
	statusIdempotencyMismatch: ErrIdempotencyMismatch,
	statusStateInvalid:        ErrStateInvalid,
	statusNotReady:            ErrNotReady,
	statusStale:               ErrStale,
	statusOtherServer:         ErrOtherServer,
	statusHoldChanged:         errHoldChanged,
}

// RefusesEveryCommand reports whether err refuses the log as a whole, so that every other
// command would be refused, too.
func RefusesEveryCommand(err error) bool {
	return errors.Is(err, ErrNotReady) || errors.Is(err, ErrOtherServer) || errors.Is(err, ErrStale)
}

// accepted lists the status words of a command that succeeded, now or when it was first
// sent.
var accepted = []string{
	statusCreated,
	statusConfirmed,
	statusCancelled,
	statusExpired,
	statusAdjusted,
	statusReplayed,
}

// errHoldChanged makes Confirm and Cancel read the hold again. Callers see it only if the
// hold changed twice in a row.
var errHoldChanged = &Error{
	Code:   statusHoldChanged,
	Detail: "the hold changed while the command was being built",
}

// refusal returns the error that an answer stands for, or nil if the command succeeded.
func refusal(pool events.Pool, a answer) error {
	known, refused := refusals[a.status]
	switch {
	case slices.Contains(accepted, a.status):
		return nil
	case !refused:
		return fmt.Errorf("the script answered with the unknown status %q", a.status)
	}
	e := *known
	if a.seq > 0 {
		e.Position = events.Position{Pool: pool.Name(), Seq: a.seq}
	}
	switch a.status {
	case statusSoldOut, statusInsufficientStock, statusStockLimit:
		e.Available = a.int(0)
	case statusStateInvalid:
		e.Detail = invalidKey(pool, a.firstText()).Detail
	}
	if a.repeated {
		return withOutcome(&e, outcomeUnknown)
	}
	return withOutcome(&e, outcomeNone)
}

// cannotDecide lists the prefixes of Redis's errors that a client may see. Redis returns
// these errors only before a script's first write, so a try that failed with one of them
// changed nothing.
var cannotDecide = []string{
	"OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY",
	"TRYAGAIN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM", "UNBLOCKED",
}

// invalidKey returns ErrStateInvalid with a detail that names the key.
func invalidKey(pool events.Pool, key string) *Error {
	fault := "has an invalid value"
	if strings.HasPrefix(key, pool.StockKey("")) {
		fault = fmt.Sprintf("is not a whole number from 0 to %d", StockReadable)
	}
	return &Error{
		Code:   ErrStateInvalid.Code,
		Detail: fmt.Sprintf("the key %s in Redis %s; correct it", key, fault),
	}
}

// unavailable returns ErrUnavailable with another detail, wrapping err.
func unavailable(detail string, err error) error {
	return fmt.Errorf("%w: %w", &Error{Code: ErrUnavailable.Code, Detail: detail}, err)
}

// decisionError returns the *Error, wrapping err, for a failed call of the decide script,
// with its outcome. It never blames the client's request: the state in Redis is invalid,
// or Redis is unavailable.
func decisionError(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	var unknown *unknownOutcomeError
	if errors.As(err, &unknown) || !decidedNothing(err) {
		return withOutcome(scriptFailure(err), outcomeUnknown)
	}
	return withOutcome(scriptFailure(err), outcomeNone)
}

// scriptFailure returns the *Error for a failed call of a script, without its outcome.
func scriptFailure(err error) error {
	text := replyText(err)
	var oneCommand scriptError
	if strings.Contains(text, wrongType) && errors.As(err, &oneCommand) { // the key is one of this command's
		return fmt.Errorf("%w: %w", ErrStateInvalid, err)
	}
	detail := ErrUnavailable.Detail
	if strings.Contains(text, wrongType) {
		detail = "a key of the pool in Redis has the wrong type"
	} else if prefix := cannotDecidePrefix(text); prefix != "" {
		detail = "Redis cannot write at the moment (" + prefix + ")"
	} else if decidedNothing(err) {
		detail = "the command could not be sent to Redis"
	}
	return unavailable(detail, err)
}

const wrongType = "WRONGTYPE"

// decidedNothing reports whether an error shows that this try was not decided: it was not
// sent, or Redis refused it before its first write. Of any other failure the answer may
// be lost.
func decidedNothing(err error) bool {
	var dial *net.OpError
	var oneCommand scriptError
	text := replyText(err)
	switch {
	case strings.Contains(text, wrongType):
		return !errors.As(err, &oneCommand) // the prelude checks the pool's keys first
	case text != "":
		return cannotDecidePrefix(text) != "" || strings.HasPrefix(text, "NOSCRIPT")
	case errors.As(err, &dial):
		return dial.Op == "dial"
	}
	return errors.Is(err, errQueueFull) || errors.Is(err, errClosed) || errors.Is(err, errWaitedTooLong) ||
		errors.Is(err, redis.ErrClosed) || errors.Is(err, redis.ErrPoolTimeout)
}

// cannotDecidePrefix returns the prefix in cannotDecide that an error of Redis has, or
// "".
func cannotDecidePrefix(text string) string {
	for _, prefix := range cannotDecide {
		if strings.HasPrefix(text, prefix) {
			return prefix
		}
	}
	return ""
}

// brokenOff returns the error of a command whose event is in the log, although Redis
// refused a later write with the reason given. Redis is then restored from the journal,
// and a repeated command gets its answer.
func brokenOff(reason string) error {
	const detail = "Redis recorded the command, but refused to change its other keys; they are being restored. " +
		"Send the request again with the same key to get its answer"
	return unavailable(detail, errors.New(reason))
}

// readError returns the *Error, wrapping err, for a failed read of a key.
func (s *Service) readError(err error, key string) error {
	if strings.Contains(replyText(err), "WRONGTYPE") {
		return fmt.Errorf("%w: %w", invalidKey(s.pool, key), err)
	}
	return unavailable("Redis does not answer", err)
}

// replyText returns the text of an error that Redis answered, or "" for any other error.
func replyText(err error) string {
	var reply redis.Error
	if !errors.As(err, &reply) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	return strings.TrimPrefix(strings.TrimPrefix(reply.Error(), "-"), "ERR ")
}
