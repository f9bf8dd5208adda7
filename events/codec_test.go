package events

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"
)

// TestCodecRoundTrip holds that what Marshal writes is what Unmarshal reads, metadata included.
func TestCodecRoundTrip(t *testing.T) {
	t.Parallel()
	for _, event := range golden {
		sent, err := NewMessage(NewID(), event)
		if err != nil {
			t.Fatal(err)
		}
		sent.Metadata.Set("correlation_id", "c-1")
		written, err := Codec{}.Marshal(MainPool.StreamKey(), sent)
		if err != nil {
			t.Fatal(err)
		}
		if fields := StreamFields(written); len(fields) != 4 || fields[0] != sent.UUID || fields[1] != string(event.Type()) || fields[3] != `{"correlation_id":"c-1"}` {
			t.Errorf("%s: fields %v", event.Type(), fields)
		}
		written["seq"], written["at"] = "1", "1764000000000" // the script's part
		received, err := Codec{}.Unmarshal(written)
		if err != nil || received.UUID != sent.UUID || string(received.Payload) != string(sent.Payload) || received.Metadata.Get("correlation_id") != "c-1" {
			t.Errorf("%s: got %+v (%v)", event.Type(), received, err)
		}
	}
	if _, err := (Codec{}).Marshal("topic", message.NewMessage("id", nil)); err == nil {
		t.Error("a message without an event type was encoded")
	}
}

// TestPayloadIsWrittenAsEncodingJSON checks that the library that NewMessage uses writes the
// bytes that encoding/json writes, for all values of all fields.
func TestPayloadIsWrittenAsEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		event := newEvent(rapid.SampledFrom(Types()).Draw(t, "type"))
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[ -~]{0,20}`), rapid.Just("\xff\u2028\x00"))
		for name, field := range reflect.ValueOf(event).Elem().Fields() {
			switch {
			case name.Anonymous: // the version
			case field.Kind() == reflect.String:
				field.SetString(text.Draw(t, name.Name))
			default:
				field.SetInt(rapid.Int64().Draw(t, name.Name))
			}
		}
		want, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := NewMessage("id", event)
		if err != nil {
			t.Fatal(err)
		}
		if string(msg.Payload) != string(want) {
			t.Fatalf("got %s, want %s", msg.Payload, want)
		}
	})
}

// TestPayloadEscapesHTML checks that a payload escapes the characters of HTML. Payloads
// have been written like that since the first version.
func TestPayloadEscapesHTML(t *testing.T) {
	t.Parallel()
	events := map[string]Event{
		`{"v":2,"sku":"\u003ca\u003e","delta":-1,"reason":"r\u0026d","idempotency_key":""}`: &StockAdjusted{
			SKU:    "<a>",
			Delta:  -1,
			Reason: "r&d",
		},
		`{"hold_id":"","sku":"é\n","qty":1,"user_id":"\u003c\u2028","payment_ref":"\"p\""}`: &HoldConfirmed{
			SKU:        "é\n",
			Qty:        1,
			UserID:     "<\u2028",
			PaymentRef: `"p"`,
		},
	}
	for want, event := range events {
		msg, err := NewMessage(NewID(), event)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(msg.Payload); got != want {
			t.Errorf("%s: got %s, want %s", event.Type(), got, want)
		}
	}
}

func BenchmarkNewMessage(b *testing.B) {
	event := &HoldCreated{
		HoldID:         NewID(),
		SKU:            "shirt",
		Qty:            1,
		UserID:         "ann",
		TTLMs:          300_000,
		IdempotencyKey: "k1",
	}
	for b.Loop() {
		if _, err := NewMessage("id", event); err != nil {
			b.Fatal(err)
		}
	}
}
