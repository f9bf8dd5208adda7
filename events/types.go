package events

import "encoding/json"

// Type is an event's name on the wire. These names are storage: the journal and every stream hold them, so they are
// never renamed and never derived from Go names. A new shape is a new version of the payload, with a step in upcast.go;
// docs/how-to-change-an-event.md goes through one.
type Type string

// The events there are. testdata/ holds a golden payload for every version of each.
const (
	TypeStockAdjusted Type = "STOCK_ADJUSTED"
	TypeHoldCreated   Type = "HOLD_CREATED"
	TypeHoldConfirmed Type = "HOLD_CONFIRMED"
	TypeHoldCancelled Type = "HOLD_CANCELLED"
)

// Event is one of the payloads below, as a pointer.
type Event interface {
	Type() Type
	// takeVersion returns the version that a payload was read with, and clears it: an event in memory is of the latest.
	takeVersion() int
}

// versioned is the field by which a payload names its version; one without it is of version 1. It stands in the struct
// itself, so that an event and its version are read in one go.
type versioned struct {
	V int `json:"v,omitempty"` // on the wire only
}

func (v *versioned) takeVersion() (version int) {
	if version, v.V = v.V, 0; version == 0 {
		return 1
	}
	return version
}

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
//
// Version 2 gained IdempotencyKey, by which Redis gives a repeated request the same answer after it was rebuilt from
// the journal. It is "" for what was recorded before, and for the reason external.
type StockAdjusted struct {
	versioned
	SKU            string `json:"sku"`
	Delta          int64  `json:"delta"`
	Reason         string `json:"reason"`
	IdempotencyKey string `json:"idempotency_key"`
}

// MarshalJSON writes the fields as version 2.
func (e StockAdjusted) MarshalJSON() ([]byte, error) {
	type fields StockAdjusted // without this method
	e.V = 2
	return json.Marshal(fields(e))
}

// HoldCreated says that Qty units of SKU left the available stock for a shopper, until the event's time plus TTLMs.
type HoldCreated struct {
	versioned
	HoldID         string `json:"hold_id"`
	SKU            string `json:"sku"`
	Qty            int64  `json:"qty"`
	UserID         string `json:"user_id"`
	TTLMs          int64  `json:"ttl_ms"`
	IdempotencyKey string `json:"idempotency_key"`
}

// HoldConfirmed says that the held units are sold. It is what an order is born from.
type HoldConfirmed struct {
	versioned
	HoldID     string `json:"hold_id"`
	SKU        string `json:"sku"`
	Qty        int64  `json:"qty"`
	UserID     string `json:"user_id"`
	PaymentRef string `json:"payment_ref"`
}

// HoldCancelled says that the held units went back to the available stock, and why.
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

// Types are the event types that this version can decode.
func Types() []Type {
	return []Type{TypeStockAdjusted, TypeHoldCreated, TypeHoldConfirmed, TypeHoldCancelled}
}
