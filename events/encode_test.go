package events

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// TestEncodeAgreesWithJSON checks that encode and encoding/json write the same bytes for
// an event, with any values in its fields.
func TestEncodeAgreesWithJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		event := newEvent(rapid.SampledFrom(Types()).Draw(t, "type"))
		for name, field := range reflect.ValueOf(event).Elem().Fields() {
			switch {
			case name.Anonymous: // the version, which only a written payload has
			case field.Kind() == reflect.String:
				text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,20}`))
				field.SetString(text.Draw(t, name.Name))
			default:
				field.SetInt(rapid.Int64().Draw(t, name.Name))
			}
		}
		want, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		got, err := encode(event)
		if err != nil {
			t.Fatalf("encode %+v: %v", event, err)
		}
		if string(got) != string(want) {
			t.Fatalf("encode %+v: got %s, want %s", event, got, want)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	event := &HoldCreated{
		HoldID:         NewID(),
		SKU:            "shirt",
		Qty:            1,
		UserID:         "ann",
		TTLMs:          300_000,
		IdempotencyKey: "k1",
	}
	for b.Loop() {
		if _, err := encode(event); err != nil {
			b.Fatal(err)
		}
	}
}
