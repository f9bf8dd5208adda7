package commands

import (
	"context"

	"github.com/stockstream/stockstream/events"
)

// Confirm asks to turn a hold into an order.
type Confirm struct {
	HoldID     string
	PaymentRef string // what the payment is known by elsewhere; it makes a repeat recognisable
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It may be nil.
	Metadata map[string]string
}

// Confirmation is the order that came of it.
type Confirmation struct {
	OrderID    string
	HoldID     string
	SKU        string
	Qty        int64
	UserID     string
	PaymentRef string
	Replayed   bool
	Position   events.Position
}

func (c Confirm) validate() error {
	var f faults
	f.name("hold_id", c.HoldID, holdIDMax)
	f.name("payment_ref", c.PaymentRef, paymentRefMax)
	return f.err()
}

// Confirm turns a hold into an order. Its errors are *ValidationError, ErrUnknownHold, ErrHoldConfirmed (with another
// payment_ref), ErrHoldCancelled, ErrHoldExpired, ErrStateInvalid, ErrNotReady, ErrStale and ErrUnavailable.
func (s *Service) Confirm(ctx context.Context, c Confirm) (Confirmation, error) {
	if err := c.validate(); err != nil {
		return Confirmation{}, err
	}
	h, d, err := s.onHold(ctx, c.HoldID, func(h hold) (events.Event, *decision) {
		event := &events.HoldConfirmed{HoldID: c.HoldID, SKU: h.sku, Qty: h.qty, UserID: h.userID, PaymentRef: c.PaymentRef}
		return event, &decision{
			rule:     ruleConfirm,
			keys:     []string{s.pool.HoldKey(c.HoldID)},
			args:     []string{h.sku, c.HoldID, c.PaymentRef, s.keepMs},
			metadata: c.Metadata,
		}
	})
	if err != nil {
		return Confirmation{}, err
	}
	return Confirmation{
		OrderID: events.OrderID(c.HoldID), HoldID: c.HoldID, SKU: h.sku, Qty: h.qty, UserID: h.userID, PaymentRef: c.PaymentRef,
		Replayed: d.answer.status == statusReplayed, Position: s.position(d.answer),
	}, nil
}
