package journal

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
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
	subscriber, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{Client: client, Unmarshaller: events.Codec{}, ConsumerGroup: "theirs", OldestId: "0"}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	messages, err := subscriber.Subscribe(ctx, events.MainPool.StreamKey())
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
		event, err := events.Decode(events.Type(got[i].Metadata.Get("stockstream.type")), got[i].Payload)
		if err != nil || event.Type() != events.TypeHoldCreated || events.UnreadableReason(got[i]) != "" || got[i].Metadata.Get("stockstream.seq") == "" {
			t.Errorf("message %d: got %+v with %v (%v)", i, event, got[i].Metadata, err)
		}
	}
	if events.UnreadableReason(got[1]) == "" || string(got[1].Payload) != `{"garbage_base64":"/w=="}` {
		t.Errorf("garbage: got %q, %v", got[1].Payload, got[1].Metadata)
	}
}

// TestEntryPayloadIsReadableIfPostgresCanStoreIt checks that an entry is refused exactly for the JSON
// texts that Postgres refuses to store as jsonb.
func TestEntryPayloadIsReadableIfPostgresCanStoreIt(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	for _, value := range []string{
		"", `\\`, `\u00e9`, `\u0000`, `a\u0000b`, `\\u0000`, `\\\u0000`, `\\\\u0000`, `\"\u0000`, `\ud83d\ude00`, `\uD83D\uDE00x`, `\ud83d`, `\ud83dx`,
		`\ud83d\n`, `\ud83d\u0041`, `\ude00`, `\ude00\ud83d`, `\ud83d\ud83d\ude00`, `\\ud83d`, `\ud83d\\ude00`, `\u12`, `\u`, "\x00", "\xff",
	} {
		raw := `{"a":"` + value + `"}`
		entry := events.ParseEntry("main", "1-1", map[string]any{
			"event_id": events.NewID(),
			"type":     "HOLD_CREATED",
			"payload":  raw,
			"seq":      "1",
			"at":       "1764000000000",
		})
		_, refused := p.db.Exec(p.ctx, `SELECT $1::jsonb`, raw)
		if (entry.Err == nil) != (refused == nil) {
			t.Errorf("%q: the entry says %v, Postgres says %v", raw, entry.Err, refused)
		}
	}
}
