package commands

import (
	"context"

	"github.com/stockstream/stockstream/events"
)

// Cancel asks to end a hold and return its units. A shopper's cancellation works before the deadline, an expiry after
// it; the script judges by Redis's clock.
type Cancel struct {
	HoldID string
	// Expired is set by the saga, for a hold whose deadline has passed.
	Expired bool
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It may be nil.
	Metadata map[string]string
}

// Cancellation is the hold as it ended.
type Cancellation struct {
	HoldID   string
	SKU      string
	Qty      int64
	UserID   string
	Status   HoldStatus // HoldCancelled or HoldExpired
	Replayed bool
	Position events.Position
}

func (c Cancel) validate() error {
	var f faults
	f.name("hold_id", c.HoldID, holdIDMax)
	return f.err()
}

func (c Cancel) outcome() (status HoldStatus, reason string) {
	if c.Expired {
		return HoldExpired, events.ReasonExpired
	}
	return HoldCancelled, events.ReasonRequested
}

// Cancel ends a hold. Its errors are *ValidationError, ErrUnknownHold, ErrHoldConfirmed, ErrHoldCancelled,
// ErrHoldExpired, ErrNotDue, ErrStateInvalid, ErrNotReady, ErrStale and ErrUnavailable.
func (s *Service) Cancel(ctx context.Context, c Cancel) (Cancellation, error) {
	if err := c.validate(); err != nil {
		return Cancellation{}, err
	}
	status, reason := c.outcome()
	h, d, err := s.onHold(ctx, c.HoldID, func(h hold) (events.Event, *decision) {
		event := &events.HoldCancelled{HoldID: c.HoldID, SKU: h.sku, Qty: h.qty, UserID: h.userID, Reason: reason}
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
		HoldID: c.HoldID, SKU: h.sku, Qty: h.qty, UserID: h.userID, Status: status,
		Replayed: d.answer.status == statusReplayed, Position: s.position(d.answer),
	}, nil
}
