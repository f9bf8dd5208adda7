package events

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"
)

// TestCodecReadsTheMessagesThatItWrites checks that Unmarshal returns the message that
// Marshal wrote, with its metadata.
func TestCodecReadsTheMessagesThatItWrites(t *testing.T) {
	t.Parallel()
	for _, event := range golden {
		eventType := event.Type()
		sent, err := NewMessage(NewID(), event)
		if err != nil {
			t.Fatal(err)
		}
		sent.Metadata.Set("correlation_id", "c-1")
		written, err := Codec{}.Marshal(MainPool.StreamKey(), sent)
		if err != nil {
			t.Fatal(err)
		}
		fields := StreamFields(written)
		want := []string{sent.UUID, string(eventType), string(sent.Payload), `{"correlation_id":"c-1"}`}
		if !slices.Equal(fields[:], want) {
			t.Errorf("%s: got the fields %q, want %q", eventType, fields, want)
		}
		// The script adds these two when it appends the entry.
		written["seq"] = "1"
		written["at"] = "1764000000000"
		received, err := Codec{}.Unmarshal(written)
		if err != nil {
			t.Fatal(err)
		}
		if received.UUID != sent.UUID {
			t.Errorf("%s: got the message id %s, want %s", eventType, received.UUID, sent.UUID)
		}
		if string(received.Payload) != string(sent.Payload) {
			t.Errorf("%s: got the payload %s, want %s", eventType, received.Payload, sent.Payload)
		}
		if got := received.Metadata.Get("correlation_id"); got != "c-1" {
			t.Errorf("%s: got the correlation id %q, want c-1", eventType, got)
		}
	}
}

// TestMarshalRefusesAMessageWithoutAType checks that Marshal fails for a message that
// NewMessage did not make.
func TestMarshalRefusesAMessageWithoutAType(t *testing.T) {
	t.Parallel()
	if _, err := (Codec{}).Marshal("topic", message.NewMessage("id", nil)); err == nil {
		t.Error("marshal a message without an event type: got no error, want one")
	}
}

// TestPayloadIsWrittenAsEncodingJSON checks that the library that NewMessage uses writes
// the bytes that encoding/json writes, for all values of all fields.
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
