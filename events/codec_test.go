package events

import (
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
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
