package events

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestEncodesAsJSON holds that a payload is byte for byte what encoding/json makes of the event, whatever its fields
// hold, and that none is forgotten.
func TestEncodesAsJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		event := newEvent(rapid.SampledFrom(Types()).Draw(t, "type"))
		for name, field := range reflect.ValueOf(event).Elem().Fields() {
			switch {
			case name.Anonymous: // the version, which is of the wire
			case field.Kind() == reflect.String:
				field.SetString(rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,20}`)).Draw(t, name.Name))
			default:
				field.SetInt(rapid.Int64().Draw(t, name.Name))
			}
		}
		want, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encode(event); string(got) != string(want) || err != nil {
			t.Fatalf("got %s (%v), want %s", got, err, want)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	event := &HoldCreated{HoldID: NewID(), SKU: "shirt", Qty: 1, UserID: "ann", TTLMs: 300_000, IdempotencyKey: "k1"}
	for b.Loop() {
		if _, err := encode(event); err != nil {
			b.Fatal(err)
		}
	}
}
