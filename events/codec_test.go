package events

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
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
