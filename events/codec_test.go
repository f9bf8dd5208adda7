package events

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
)

// TestStockSubscriber holds that any Watermill program can read the stream with the library's own subscriber, and that
// no entry ends its subscription.
func TestStockSubscriber(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(1)
	p.raw(map[string]any{"garbage": "\xff"})
	p.append(1)
	client := redis.NewClient(&redis.Options{Addr: p.server.Addr()}) // the subscriber closes it
	subscriber, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{Client: client, Unmarshaller: Codec{}, ConsumerGroup: "theirs", OldestId: "0"}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	messages, err := subscriber.Subscribe(ctx, MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	var got []*message.Message
	for len(got) < 3 {
		select {
		case msg := <-messages:
			got = append(got, msg)
			msg.Ack()
		case <-time.After(10 * time.Second):
			t.Fatalf("got %d of 3 messages", len(got))
		}
	}
	if err := subscriber.Close(); err != nil {
		t.Error(err)
	}
	for _, i := range []int{0, 2} {
		event, err := Decode(Type(got[i].Metadata.Get("stockstream.type")), got[i].Payload)
		if err != nil || event.Type() != TypeHoldCreated || UnreadableReason(got[i]) != "" || got[i].Metadata.Get("stockstream.seq") == "" {
			t.Errorf("message %d: got %+v with %v (%v)", i, event, got[i].Metadata, err)
		}
	}
	if UnreadableReason(got[1]) == "" || string(got[1].Payload) != `{"garbage_base64":"/w=="}` {
		t.Errorf("garbage: got %q, %v", got[1].Payload, got[1].Metadata)
	}
}

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
