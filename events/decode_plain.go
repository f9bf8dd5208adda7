package events

import "github.com/stockstream/stockstream/internal/plainjson"

// readPlain reads a payload that is as nearly all are, which most of a replay's time would otherwise go into. It reports
// false for one that encoding/json must read, and may have filled some fields by then.
func readPlain(payload []byte, event Event) (version int, plain bool) {
	v := int64(1)
	plain = plainjson.Read(payload, func(name string) (*string, *int64) {
		if name == "v" {
			return nil, &v
		}
		return fieldOf(event, name)
	})
	return int(v), plain && v > 0
}

// fieldOf returns where a field of the latest version goes, or nothing for one that is not known.
func fieldOf(event Event, name string) (text *string, number *int64) {
	switch e := event.(type) {
	case *StockAdjusted:
		switch name {
		case "sku":
			return &e.SKU, nil
		case "delta":
			return nil, &e.Delta
		case "reason":
			return &e.Reason, nil
		case "idempotency_key":
			return &e.IdempotencyKey, nil
		}
	case *HoldCreated:
		switch name {
		case "ttl_ms":
			return nil, &e.TTLMs
		case "idempotency_key":
			return &e.IdempotencyKey, nil
		}
		return holdField(name, &e.HoldID, &e.SKU, &e.UserID, &e.Qty)
	case *HoldConfirmed:
		if name == "payment_ref" {
			return &e.PaymentRef, nil
		}
		return holdField(name, &e.HoldID, &e.SKU, &e.UserID, &e.Qty)
	case *HoldCancelled:
		if name == "reason" {
			return &e.Reason, nil
		}
		return holdField(name, &e.HoldID, &e.SKU, &e.UserID, &e.Qty)
	}
	return nil, nil
}

func holdField(name string, holdID, sku, userID *string, qty *int64) (text *string, number *int64) {
	switch name {
	case "hold_id":
		return holdID, nil
	case "sku":
		return sku, nil
	case "user_id":
		return userID, nil
	case "qty":
		return nil, qty
	}
	return nil, nil
}
