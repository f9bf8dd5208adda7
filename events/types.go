package events

import "encoding/json"

// Type is an event's name on the wire. The journal and every stream contain these names,
// so they are never renamed and never derived from Go names. To change a payload, add a
// version and a step in upcast.go; docs/how-to-change-an-event.md shows how.
type Type string

// The event types. testdata/ has a golden payload for every version of each.
const (
	TypeStockAdjusted Type = "STOCK_ADJUSTED"
	TypeHoldCreated   Type = "HOLD_CREATED"
	TypeHoldConfirmed Type = "HOLD_CONFIRMED"
	TypeHoldCancelled Type = "HOLD_CANCELLED"
)

// Event is one of the payloads below, as a pointer.
type Event interface {
	Type() Type
	// takeVersion returns the version that the payload was read with, and clears it,
	// because an event in memory always has the latest version.
	takeVersion() int
}

// versioned is the version field of a payload. A payload without the field has version 1.
// Each event embeds versioned, so that the event and its version are decoded together.
type versioned struct {
	V int `json:"v,omitempty"` // on the wire only
}

func (v *versioned) takeVersion() int {
	version := v.V
	v.V = 0
	if version == 0 {
		return 1
	}
	return version
}

// Reasons that the system itself gives. A client may give others in an adjustment.
const (
	// ReasonExternal: an operator set stock:<sku> by hand, and the next command recorded
	// the difference.
	ReasonExternal = "external"
	// ReasonRequested: the shopper cancelled.
	ReasonRequested = "requested"
	// ReasonExpired: the deadline passed.
	ReasonExpired = "expired"
	// ReasonRepair: a repair recorded a change of Redis whose own event was lost.
	ReasonRepair = "repair"
)

// StockAdjusted records that Delta units of SKU were added to the available stock, or
// removed from it if Delta is negative.
//
// Version 2 added IdempotencyKey. With it, Redis still gives a repeated request the same
// answer after it was rebuilt from the journal. The key is "" in version 1, and for the
// reason external.
type StockAdjusted struct {
	versioned
	SKU            string `json:"sku"`
	Delta          int64  `json:"delta"`
	Reason         string `json:"reason"`
	IdempotencyKey string `json:"idempotency_key"`
}

// MarshalJSON writes the fields as version 2.
func (e StockAdjusted) MarshalJSON() ([]byte, error) {
	type fields StockAdjusted // a type without this method, which would call itself otherwise
	e.V = 2
	return json.Marshal(fields(e))
}

// HoldCreated records that Qty units of SKU left the available stock and are held for a
// shopper, until the event's time plus TTLMs.
type HoldCreated struct {
	versioned
	HoldID         string `json:"hold_id"`
	SKU            string `json:"sku"`
	Qty            int64  `json:"qty"`
	UserID         string `json:"user_id"`
	TTLMs          int64  `json:"ttl_ms"`
	IdempotencyKey string `json:"idempotency_key"`
}

// HoldConfirmed records that the held units are sold. It creates the order.
type HoldConfirmed struct {
	versioned
	HoldID     string `json:"hold_id"`
	SKU        string `json:"sku"`
	Qty        int64  `json:"qty"`
	UserID     string `json:"user_id"`
	PaymentRef string `json:"payment_ref"`
}

// HoldCancelled records that the held units went back to the available stock, and why.
type HoldCancelled struct {
	versioned
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

// Types returns the event types that this build can decode.
func Types() []Type {
	return []Type{TypeStockAdjusted, TypeHoldCreated, TypeHoldConfirmed, TypeHoldCancelled}
}
