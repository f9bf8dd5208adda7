package commands

import (
	"context"
	"strconv"

	"github.com/stockstream/stockstream/events"
)

// AdjustStock asks to add units to a SKU's available stock, or to take some away.
type AdjustStock struct {
	SKU            string
	Delta          int64 // units; a negative number takes away
	Reason         string
	IdempotencyKey string
	// Metadata is attached to the event: correlation_id, causation_id, traceparent. It
	// may be nil.
	Metadata map[string]string
}

// Adjustment is the stock after an AdjustStock. For a repeated request it is the stock
// after the first one.
type Adjustment struct {
	SKU       string
	Available int64 // units
	Replayed  bool  // whether an earlier request with the same key adjusted the stock
	Position  events.Position
}

func (c AdjustStock) validate() error {
	var f Faults
	f.SKU("sku", c.SKU)
	if c.Delta == 0 {
		f.Add("delta", "must not be 0")
	}
	f.between("delta", c.Delta, -DeltaMax, DeltaMax)
	f.name("reason", c.Reason, reasonMax)
	if c.Reason == events.ReasonExternal {
		f.Add("reason", "must not be %q, the reason of changes made directly in Redis", events.ReasonExternal)
	}
	f.name("idempotency_key", c.IdempotencyKey, keyMax)
	return f.Err()
}

// Fingerprint hashes the request without its idempotency key.
func (c AdjustStock) Fingerprint() string {
	return fingerprint("adjust", c.SKU, digits(c.Delta), c.Reason)
}

// AdjustStock changes a SKU's available stock. Adding units to an unknown SKU makes it
// known. Its errors are *ValidationError, ErrUnknownSKU, ErrInsufficientStock,
// ErrStockLimit, ErrIdempotencyMismatch, ErrStateInvalid, ErrNotReady, ErrOtherServer,
// ErrStale, ErrJournalBehind (for added units only) and ErrUnavailable.
func (s *Service) AdjustStock(ctx context.Context, c AdjustStock) (Adjustment, error) {
	if err := c.validate(); err != nil {
		return Adjustment{}, err
	}
	if c.Delta > 0 {
		if err := s.gate.refuseGrowth(); err != nil {
			return Adjustment{}, err
		}
	}
	d := &decision{
		rule:     ruleAdjust,
		keys:     []string{s.pool.StockKey(c.SKU), s.pool.IdempotencyKey(c.IdempotencyKey)},
		args:     []string{c.SKU, digits(c.Delta), c.Fingerprint(), s.keepMs},
		metadata: c.Metadata,
	}
	event := &events.StockAdjusted{
		SKU:            c.SKU,
		Delta:          c.Delta,
		Reason:         c.Reason,
		IdempotencyKey: c.IdempotencyKey,
	}
	if err := s.decide(ctx, events.NewID(), event, d); err != nil {
		return Adjustment{}, err
	}
	return Adjustment{
		SKU:       c.SKU,
		Available: d.answer.int(0),
		Replayed:  d.answer.status == statusReplayed,
		Position:  s.position(d.answer),
	}, nil
}

// Available returns how many units of a SKU could be reserved now. Its errors are
// *ValidationError, ErrUnknownSKU, ErrStateInvalid, ErrNotReady and ErrUnavailable.
func (s *Service) Available(ctx context.Context, sku string) (int64, error) {
	var f Faults
	if f.SKU("sku", sku); f.Err() != nil {
		return 0, f.Err()
	}
	if !s.gate.IsOpen() {
		return 0, ErrNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	key := s.pool.StockKey(sku)
	stock, exists, err := s.reads.text(ctx, key)
	switch {
	case err != nil:
		return 0, s.readError(err, key)
	case !exists:
		return 0, s.withoutCounter(ctx, sku)
	}
	available, err := strconv.ParseUint(stock, 10, 63) // only digits, like the check in prelude.lua
	if err != nil || available > StockReadable {
		return 0, invalidKey(s.pool, key)
	}
	return int64(available), nil
}

// withoutCounter returns the error for a SKU that has no stock counter in Redis:
//
//   - ErrNotReady if Redis was emptied,
//   - ErrUnknownSKU if no event names the SKU,
//   - nil if events name it, so that the counter was deleted by hand: its stock is 0.
func (s *Service) withoutCounter(ctx context.Context, sku string) error {
	meta, err := s.reads.hashFields(ctx, s.pool.MetaKey(), "epoch", "stock:"+sku)
	switch {
	case err != nil:
		return s.readError(err, s.pool.MetaKey())
	case meta[0] == "":
		return ErrNotReady
	case meta[1] == "":
		return ErrUnknownSKU
	}
	return nil
}
