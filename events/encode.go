package events

import (
	"encoding/json"

	"github.com/stockstream/stockstream/internal/plainjson"
)

// encode returns an event's payload, which is what encoding/json makes of it.
func encode(event Event) ([]byte, error) {
	o := make(plainjson.Object, 0, 256)
	switch e := event.(type) {
	case *StockAdjusted:
		return o.Int("v", 2).Text("sku", e.SKU).Int("delta", e.Delta).Text("reason", e.Reason).Text("idempotency_key", e.IdempotencyKey).End(), nil
	case *HoldCreated:
		return ofHold(o, e.HoldID, e.SKU, e.Qty, e.UserID).Int("ttl_ms", e.TTLMs).Text("idempotency_key", e.IdempotencyKey).End(), nil
	case *HoldConfirmed:
		return ofHold(o, e.HoldID, e.SKU, e.Qty, e.UserID).Text("payment_ref", e.PaymentRef).End(), nil
	case *HoldCancelled:
		return ofHold(o, e.HoldID, e.SKU, e.Qty, e.UserID).Text("reason", e.Reason).End(), nil
	}
	return json.Marshal(event)
}

func ofHold(o plainjson.Object, holdID, sku string, qty int64, userID string) plainjson.Object {
	return o.Text("hold_id", holdID).Text("sku", sku).Int("qty", qty).Text("user_id", userID)
}
