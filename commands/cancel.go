package commands

import (
	"context"

	"github.com/stockstream/stockstream/events"
)

// Cancel asks to end a hold and to return its units to the available stock. A shopper may
// cancel until the deadline, and the saga expires the hold after it. The script decides
// by Redis's clock.
type Cancel struct {
	HoldID string
	// Expired is true for the saga's cancellation of a hold whose deadline passed, and
	// false for a shopper's.
	Expired bool
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It
	// may be nil.
	Metadata map[string]string
}

// Cancellation is the hold that a Cancel ended.
type Cancellation struct {
	HoldID   string
	SKU      string
	Qty      int64
	UserID   string
	Status   events.HoldStatus // HoldCancelled or HoldExpired
	Replayed bool              // whether an earlier request ended the hold
	Position events.Position
}

func (c Cancel) validate() error {
	var f Faults
	f.HoldID("hold_id", c.HoldID)
	return f.Err()
}

// outcome returns the status in which the hold ends, and the reason that its event names.
func (c Cancel) outcome() (status events.HoldStatus, reason string) {
	if c.Expired {
		return events.StatusExpired, events.ReasonExpired
	}
	return events.StatusCancelled, events.ReasonRequested
}

// Cancel ends a hold and returns its units. Its errors are *ValidationError,
// ErrUnknownHold, ErrHoldConfirmed, ErrHoldCancelled, ErrHoldExpired, ErrNotDue,
// ErrStateInvalid, ErrNotReady, ErrOtherServer, ErrStale and ErrUnavailable.
func (s *Service) Cancel(ctx context.Context, c Cancel) (Cancellation, error) {
	if err := c.validate(); err != nil {
		return Cancellation{}, err
	}
	status, reason := c.outcome()
	h, d, err := s.onHold(ctx, c.HoldID, func(h hold) (events.Event, *decision) {
		event := &events.HoldCancelled{
			HoldID: c.HoldID,
			SKU:    h.sku,
			Qty:    h.qty,
			UserID: h.userID,
			Reason: reason,
		}
		return event, &decision{
			rule:     ruleCancel,
			keys:     []string{s.pool.StockKey(h.sku), s.pool.HoldKey(c.HoldID)},
			args:     []string{h.sku, c.HoldID, string(status), s.keepMs},
			metadata: c.Metadata,
		}
	})
	if err != nil {
		return Cancellation{}, err
	}
	return Cancellation{
		HoldID:   c.HoldID,
		SKU:      h.sku,
		Qty:      h.qty,
		UserID:   h.userID,
		Status:   status,
		Replayed: h.replayed(d.answer),
		Position: s.position(d.answer),
	}, nil
}
