package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/stockstream/stockstream/events"
)

// Reserve asks for a hold: Qty units of a SKU, kept for a user until a deadline.
type Reserve struct {
	SKU            string
	Qty            int64
	UserID         string
	TTL            time.Duration // in whole ms; 0 for the configured default
	IdempotencyKey string
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It
	// may be nil.
	Metadata map[string]string
}

// Reservation is the hold that Reserve made. For a repeated request it is the hold of the
// first one, with its present status.
type Reservation struct {
	HoldID    string
	SKU       string
	Qty       int64
	UserID    string
	Status    events.HoldStatus
	ExpiresAt time.Time     // by Redis's clock
	ExpiresIn time.Duration // until ExpiresAt; 0 if it has passed
	Replayed  bool          // whether an earlier request with the same key made the hold
	Position  events.Position
}

func (c Reserve) validate(config Config) error {
	var f Faults
	f.SKU("sku", c.SKU)
	f.between("qty", c.Qty, 1, QtyMax)
	f.name("user_id", c.UserID, userIDMax)
	f.name("idempotency_key", c.IdempotencyKey, keyMax)
	f.ttl(c.TTL, config.HoldTTLMax)
	return f.Err()
}

// Fingerprint hashes the request without its idempotency key. A request for the default
// TTL keeps its fingerprint when the configured default changes.
func (c Reserve) Fingerprint() string {
	return fingerprint("reserve", c.SKU, digits(c.Qty), c.UserID, c.TTL.String())
}

// Reserve makes a hold if enough units are available. Its errors are *ValidationError,
// ErrSoldOut, ErrUnknownSKU, ErrUnknownHold (a repeated request whose hold Redis no
// longer has), ErrIdempotencyMismatch, ErrStateInvalid, ErrNotReady, ErrOtherServer,
// ErrStale, ErrJournalBehind and ErrUnavailable.
func (s *Service) Reserve(ctx context.Context, c Reserve) (Reservation, error) {
	if err := c.validate(s.config); err != nil {
		return Reservation{}, err
	}
	if err := s.gate.refuseGrowth(); err != nil {
		return Reservation{}, err
	}
	holdID := s.pool.NewHoldID()
	ttl := c.TTL
	if ttl == 0 {
		ttl = s.config.HoldTTL
	}
	event := &events.HoldCreated{
		HoldID:         holdID,
		SKU:            c.SKU,
		Qty:            c.Qty,
		UserID:         c.UserID,
		TTLMs:          ttl.Milliseconds(),
		IdempotencyKey: c.IdempotencyKey,
	}
	d := &decision{
		rule: ruleReserve,
		keys: []string{
			s.pool.StockKey(c.SKU),
			s.pool.HoldKey(holdID),
			s.pool.IdempotencyKey(c.IdempotencyKey),
		},
		args: []string{
			c.SKU,
			holdID,
			digits(c.Qty),
			c.UserID,
			digits(ttl.Milliseconds()),
			c.Fingerprint(),
			s.keepMs,
		},
		metadata: c.Metadata,
	}
	if err := s.decide(ctx, events.NewID(), event, d); err != nil {
		return Reservation{}, err
	}
	expiresAtMs := d.answer.int(1)
	r := Reservation{
		HoldID:    d.answer.firstText(),
		SKU:       c.SKU,
		Qty:       c.Qty,
		UserID:    c.UserID,
		Status:    events.StatusActive,
		ExpiresAt: time.UnixMilli(expiresAtMs).UTC(),
		ExpiresIn: max(0, time.Duration(expiresAtMs-d.answer.nowMs)*time.Millisecond),
		Replayed:  d.answer.status == statusReplayed,
		Position:  s.position(d.answer),
	}
	if r.Replayed {
		return s.withPresentStatus(ctx, r)
	}
	return r, nil
}

// withPresentStatus returns a replayed reservation with the status that its hold has now.
// It fails with ErrUnknownHold if Redis no longer has the hold: the hold has ended, and
// Redis cannot tell how.
func (s *Service) withPresentStatus(ctx context.Context, r Reservation) (Reservation, error) {
	hold, err := s.readHold(ctx, r.HoldID)
	if err != nil {
		return Reservation{}, withOutcome(err, outcomeUnknown)
	}
	if hold.status == "" {
		return Reservation{}, s.withoutHold(ctx, r.HoldID)
	}
	r.Status = hold.status
	return r, nil
}

// withoutHold returns the error for a hold whose idempotency key Redis still has:
// ErrNotReady if Redis was emptied since, and ErrUnknownHold otherwise.
func (s *Service) withoutHold(ctx context.Context, holdID string) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	meta, err := s.reads.hashFields(ctx, s.pool.MetaKey(), "epoch")
	switch {
	case err != nil:
		return s.readError(err, s.pool.MetaKey())
	case meta[0] == "":
		return ErrNotReady
	}
	return &Error{
		Code:   ErrUnknownHold.Code,
		Detail: fmt.Sprintf("this key made the hold %s, which ended too long ago; read it to learn how", holdID),
	}
}
