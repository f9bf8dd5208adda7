package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Error is a command that was refused. Its Code is stable and part of the API; errors.Is compares by it alone.
type Error struct {
	Code   string
	Detail string
	// Available is how many units there are, for SOLD_OUT, INSUFFICIENT_STOCK and STOCK_LIMIT.
	Available int64
	// Position is the end of the log as the decision saw it; zero where no decision was taken.
	Position events.Position
}

func (e *Error) Error() string { return e.Code + ": " + e.Detail }

// Is reports whether target is a refusal with the same code.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Code == e.Code
}

// The refusals there are.
var (
	ErrSoldOut             = &Error{Code: "SOLD_OUT", Detail: "fewer units are available than were asked for"}
	ErrInsufficientStock   = &Error{Code: "INSUFFICIENT_STOCK", Detail: "fewer units are available than the adjustment takes away"}
	ErrStockLimit          = &Error{Code: "STOCK_LIMIT", Detail: "the stock of one SKU is limited to 1000000000000 units"}
	ErrUnknownSKU          = &Error{Code: "UNKNOWN_SKU", Detail: "this SKU was never stocked"}
	ErrUnknownHold         = &Error{Code: "UNKNOWN_HOLD", Detail: "there is no hold with this id, or it ended long ago"}
	ErrHoldConfirmed       = &Error{Code: "HOLD_CONFIRMED", Detail: "the hold is an order already"}
	ErrHoldCancelled       = &Error{Code: "HOLD_CANCELLED", Detail: "the hold was cancelled"}
	ErrHoldExpired         = &Error{Code: "HOLD_EXPIRED", Detail: "the hold's deadline has passed"}
	ErrNotDue              = &Error{Code: "NOT_DUE", Detail: "the hold's deadline has not passed"}
	ErrIdempotencyMismatch = &Error{Code: "IDEMPOTENCY_MISMATCH", Detail: "the key was used before for another request"}
	ErrStateInvalid        = &Error{Code: "STATE_INVALID", Detail: "a key in Redis does not hold what it must"}
	ErrNotReady            = &Error{Code: "NOT_READY", Detail: "the pool is not open for commands"}
	ErrStale               = &Error{Code: "STALE", Detail: "Redis is behind what it has acknowledged before"}
	// ErrUnavailable: Redis did not answer, or refused. Whether the command took effect is unknown; the same
	// key sent again tells.
	ErrUnavailable = &Error{Code: "UNAVAILABLE", Detail: "Redis did not decide; repeat with the same key to learn the outcome"}
)

// refusals maps the status words of the scripts to typed errors; this is the only place that does.
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
	statusHoldChanged:         errHoldChanged,
}

// taken are the status words of commands that were decided as they asked, now or before.
var taken = []string{statusCreated, statusConfirmed, statusCancelled, statusExpired, statusAdjusted, statusReplayed}

// errHoldChanged asks Confirm and Cancel to read the hold again; it does not leave the package.
var errHoldChanged = &Error{Code: statusHoldChanged, Detail: "the hold changed while the command was built"}

// refusal returns the typed error for an answer that is one, and nil for a command that was taken.
func refusal(pool events.Pool, a answer) error {
	known, refused := refusals[a.status]
	switch {
	case slices.Contains(taken, a.status):
		return nil
	case !refused:
		return fmt.Errorf("the script answered %q, which is no status", a.status)
	}
	e := *known
	if a.seq > 0 {
		e.Position = events.Position{Pool: pool.Name(), Seq: a.seq}
	}
	switch a.status {
	case statusSoldOut, statusInsufficientStock, statusStockLimit:
		e.Available = a.int(0)
	case statusStateInvalid:
		e.Detail = invalidKey(pool, a.text(0)).Detail
	}
	return &e
}

// cannotDecide lists the beginnings of Redis's errors that clients are told. None of them comes after a script's first
// write.
var cannotDecide = []string{
	"OOM", "READONLY", "LOADING", "MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "NOAUTH", "WRONGPASS", "NOPERM", "UNBLOCKED",
}

// invalidKey is ErrStateInvalid for a key.
func invalidKey(pool events.Pool, key string) *Error {
	what := "does not hold what it must"
	if strings.HasPrefix(key, pool.StockKey("")) {
		what = "is no stock, which is a whole number from 0 to 10000000000000"
	}
	return &Error{Code: ErrStateInvalid.Code, Detail: fmt.Sprintf("the key %s %s; set it right", key, what)}
}

// decisionError turns an error of a call that decides into a typed one. Whatever went wrong, the request is not to blame.
func decisionError(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	text := replyText(err)
	if strings.Contains(text, "WRONGTYPE") {
		if ofOne := scriptError(""); errors.As(err, &ofOne) {
			return fmt.Errorf("%w: %w", ErrStateInvalid, err) // a key of this command alone
		}
		return fmt.Errorf("%w: %w", &Error{Code: ErrUnavailable.Code, Detail: "one of the pool's own keys in Redis does not hold what it must; nothing was changed"}, err)
	}
	for _, word := range cannotDecide {
		if strings.HasPrefix(text, word) {
			return fmt.Errorf("%w: %w", &Error{Code: ErrUnavailable.Code, Detail: "Redis cannot write at the moment (" + word + "); nothing was changed"}, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// readError turns an error of reading a key into a typed one.
func (s *Service) readError(err error, key string) error {
	if strings.Contains(replyText(err), "WRONGTYPE") {
		return fmt.Errorf("%w: %w", invalidKey(s.pool, key), err)
	}
	return fmt.Errorf("%w: %w", &Error{Code: ErrUnavailable.Code, Detail: "Redis does not answer"}, err)
}

// replyText is what Redis answered instead of a result, "" where an error is not its answer.
func replyText(err error) string {
	var reply redis.Error
	if !errors.As(err, &reply) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	return strings.TrimPrefix(strings.TrimPrefix(reply.Error(), "-"), "ERR ")
}
