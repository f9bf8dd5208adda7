package commands

import (
	"context"
	"time"

	"github.com/stockstream/stockstream/events"
)

// Reserve asks for a hold: Qty units of SKU for a user, until a deadline.
type Reserve struct {
	SKU            string
	Qty            int64
	UserID         string
	TTL            time.Duration // 0 for the configured default; whole milliseconds count
	IdempotencyKey string
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It may be nil.
	Metadata map[string]string
}

// Reservation is a hold as Reserve made it, or as it stands when the same request comes again.
type Reservation struct {
	HoldID    string
	SKU       string
	Qty       int64
	UserID    string
	Status    HoldStatus
	ExpiresAt time.Time     // by Redis's clock
	ExpiresIn time.Duration // from now; never below 0
	Replayed  bool
	Position  events.Position
}

// HoldStatus is a hold's state, in commands and in read tables alike.
type HoldStatus string

// The states of a hold. Only an active one can still change.
const (
	HoldActive    HoldStatus = "ACTIVE"
	HoldConfirmed HoldStatus = "CONFIRMED"
	HoldCancelled HoldStatus = "CANCELLED"
	HoldExpired   HoldStatus = "EXPIRED"
)

func (c Reserve) validate(config Config) error {
	var f faults
	f.sku(c.SKU)
	f.between("qty", c.Qty, 1, QtyMax)
	f.name("user_id", c.UserID, userIDMax)
	f.name("idempotency_key", c.IdempotencyKey, keyMax)
	f.ttl(c.TTL, config.HoldTTLMax)
	return f.err()
}

// Fingerprint identifies the request as it was made, apart from its idempotency key. It covers the TTL
// that was asked for, not the default, so that a default that changes later causes no mismatch.
func (c Reserve) Fingerprint() string {
	return fingerprint("reserve", c.SKU, digits(c.Qty), c.UserID, c.TTL.String())
}

// Reserve makes a hold. Its errors are *ValidationError, ErrSoldOut, ErrUnknownSKU, ErrIdempotencyMismatch,
// ErrStateInvalid, ErrNotReady, ErrStale and ErrUnavailable.
func (s *Service) Reserve(ctx context.Context, c Reserve) (Reservation, error) {
	if err := c.validate(s.config); err != nil {
		return Reservation{}, err
	}
	holdID, ttl := events.NewID(), c.TTL
	if ttl == 0 {
		ttl = s.config.HoldTTL
	}
	event := &events.HoldCreated{
		HoldID: holdID, SKU: c.SKU, Qty: c.Qty, UserID: c.UserID, TTLMs: ttl.Milliseconds(), IdempotencyKey: c.IdempotencyKey,
	}
	d := &decision{
		rule:     ruleReserve,
		keys:     []string{s.pool.StockKey(c.SKU), s.pool.HoldKey(holdID), s.pool.IdempotencyKey(c.IdempotencyKey)},
		args:     []string{c.SKU, holdID, digits(c.Qty), c.UserID, digits(ttl.Milliseconds()), c.Fingerprint(), s.keepMs},
		metadata: c.Metadata,
	}
	if err := s.decide(ctx, events.NewID(), event, d); err != nil {
		return Reservation{}, err
	}
	r := Reservation{
		HoldID: d.answer.text(0), SKU: c.SKU, Qty: c.Qty, UserID: c.UserID, Status: HoldActive,
		ExpiresAt: time.UnixMilli(d.answer.int(1)).UTC(),
		ExpiresIn: max(0, time.Duration(d.answer.int(1)-d.answer.nowMs)*time.Millisecond),
		Replayed:  d.answer.status == statusReplayed,
		Position:  s.position(d.answer),
	}
	if r.Replayed {
		return s.asItStands(ctx, r)
	}
	return r, nil
}

// asItStands gives a repeated reservation the status that its hold has come to meanwhile.
func (s *Service) asItStands(ctx context.Context, r Reservation) (Reservation, error) {
	hold, err := s.readHold(ctx, r.HoldID)
	if err != nil {
		return Reservation{}, err
	}
	if hold.status != "" {
		r.Status = hold.status
	}
	return r, nil
}
