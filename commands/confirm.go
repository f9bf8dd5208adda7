package commands

import (
	"context"

	"github.com/stockstream/stockstream/events"
)

// Confirm asks to turn a hold into an order.
type Confirm struct {
	HoldID     string
	PaymentRef string // the payment's id in the payment system; the same one again makes a request a repeat
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It
	// may be nil.
	Metadata map[string]string
}

// Confirmation is the order that a Confirm made.
type Confirmation struct {
	OrderID    string
	HoldID     string
	SKU        string
	Qty        int64
	UserID     string
	PaymentRef string
	Replayed   bool // whether an earlier request made the order
	Position   events.Position
}

func (c Confirm) validate() error {
	var f Faults
	f.HoldID("hold_id", c.HoldID)
	f.name("payment_ref", c.PaymentRef, paymentRefMax)
	return f.Err()
}

// Confirm turns a hold into an order, before the hold's deadline. Its errors are
// *ValidationError, ErrUnknownHold, ErrHoldConfirmed (with a different payment_ref),
// ErrHoldCancelled, ErrHoldExpired, ErrStateInvalid, ErrNotReady, ErrOtherServer,
// ErrStale and ErrUnavailable.
func (s *Service) Confirm(ctx context.Context, c Confirm) (Confirmation, error) {
	if err := c.validate(); err != nil {
		return Confirmation{}, err
	}
	h, d, err := s.onHold(ctx, c.HoldID, func(h hold) (events.Event, *decision) {
		event := &events.HoldConfirmed{
			HoldID:     c.HoldID,
			SKU:        h.sku,
			Qty:        h.qty,
			UserID:     h.userID,
			PaymentRef: c.PaymentRef,
		}
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
		OrderID:    events.OrderID(c.HoldID),
		HoldID:     c.HoldID,
		SKU:        h.sku,
		Qty:        h.qty,
		UserID:     h.userID,
		PaymentRef: c.PaymentRef,
		Replayed:   h.replayed(d.answer),
		Position:   s.position(d.answer),
	}, nil
}
