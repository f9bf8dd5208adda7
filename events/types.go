package events

import (
	"encoding/json"
	"fmt"
)

// Type is an event's name on the wire. These names are storage: the journal and every stream hold them, so they are
// never renamed and never derived from Go names. A new shape is a new name.
type Type string

// The events there are. testdata/ holds a golden payload for each.
const (
	TypeStockAdjusted Type = "STOCK_ADJUSTED"
	TypeHoldCreated   Type = "HOLD_CREATED"
	TypeHoldConfirmed Type = "HOLD_CONFIRMED"
	TypeHoldCancelled Type = "HOLD_CANCELLED"
)

// Event is one of the payloads below, as a pointer.
type Event interface{ Type() Type }

// Reasons that the system itself gives. A client may name others in an adjustment.
const (
	// ReasonExternal: someone set stock:<sku> by hand, and the next command recorded the difference.
	ReasonExternal = "external"
	// ReasonRequested: the shopper cancelled.
	ReasonRequested = "requested"
	// ReasonExpired: the deadline passed.
	ReasonExpired = "expired"
)

// StockAdjusted says that Delta units of SKU (negative for fewer) were added to what can be sold.
type StockAdjusted struct {
	SKU    string `json:"sku"`
	Delta  int64  `json:"delta"`
	Reason string `json:"reason"`
}

// HoldCreated says that Qty units of SKU left the available stock for a shopper, until the event's time plus TTLMs.
type HoldCreated struct {
	HoldID         string `json:"hold_id"`
	SKU            string `json:"sku"`
	Qty            int64  `json:"qty"`
	UserID         string `json:"user_id"`
	TTLMs          int64  `json:"ttl_ms"`
	IdempotencyKey string `json:"idempotency_key"`
}

// HoldConfirmed says that the held units are sold. It is what an order is born from.
type HoldConfirmed struct {
	HoldID     string `json:"hold_id"`
	SKU        string `json:"sku"`
	Qty        int64  `json:"qty"`
	UserID     string `json:"user_id"`
	PaymentRef string `json:"payment_ref"`
}

// HoldCancelled says that the held units went back to the available stock, and why.
type HoldCancelled struct {
	HoldID string `json:"hold_id"`
	SKU    string `json:"sku"`
	Qty    int64  `json:"qty"`
	UserID string `json:"user_id"`
	Reason string `json:"reason"`
}

// Type implements Event.
func (*StockAdjusted) Type() Type { return TypeStockAdjusted }

// Type implements Event.
func (*HoldCreated) Type() Type { return TypeHoldCreated }

// Type implements Event.
func (*HoldConfirmed) Type() Type { return TypeHoldConfirmed }

// Type implements Event.
func (*HoldCancelled) Type() Type { return TypeHoldCancelled }

// UnknownTypeError is returned for an event whose type this version does not know; a newer one may have written it.
type UnknownTypeError struct{ Type Type }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("unknown event type %q", string(e.Type))
}

// Decode returns the payload as its Go type: *StockAdjusted, *HoldCreated, *HoldConfirmed or *HoldCancelled.
// It fails with *UnknownTypeError for another type, and for a payload that is not the JSON that the type asks for.
func Decode(t Type, payload []byte) (Event, error) {
	var event Event
	switch t {
	case TypeStockAdjusted:
		event = new(StockAdjusted)
	case TypeHoldCreated:
		event = new(HoldCreated)
	case TypeHoldConfirmed:
		event = new(HoldConfirmed)
	case TypeHoldCancelled:
		event = new(HoldCancelled)
	default:
		return nil, &UnknownTypeError{Type: t}
	}
	if err := json.Unmarshal(payload, event); err != nil {
		return nil, fmt.Errorf("decode %s: %w", t, err)
	}
	if err := check(event); err != nil {
		return nil, fmt.Errorf("decode %s: %w", t, err)
	}
	return event, nil
}

// check holds the least that every reader relies on: JSON that merely parses (null, {}) is not an event.
func check(event Event) error {
	switch e := event.(type) {
	case *StockAdjusted:
		return require(e.SKU != "", "sku is empty")
	case *HoldCreated:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	case *HoldConfirmed:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	case *HoldCancelled:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	}
	return nil
}

func requireHold(holdID, sku string, qty int64) error {
	return require(holdID != "" && sku != "" && qty > 0, "want hold_id, sku and a qty above 0")
}

func require(ok bool, text string) error {
	if !ok {
		return fmt.Errorf("payload is not whole: %s", text)
	}
	return nil
}

// Known reports whether this version can decode events of a type.
func Known(t Type) bool {
	switch t {
	case TypeStockAdjusted, TypeHoldCreated, TypeHoldConfirmed, TypeHoldCancelled:
		return true
	}
	return false
}
