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

// TestStockWatermillSubscriberReadsEveryEntry checks that any Watermill program can read
// the stream with the library's own subscriber, and that no entry ends its subscription.
func TestStockWatermillSubscriberReadsEveryEntry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(1)
	f.appendEntry(map[string]any{"garbage": "\xff"})
	f.appendEvents(1)
	got := f.readWithStockSubscriber(3)
	for _, i := range []int{0, 2} {
		msg := got[i]
		event, err := events.Decode(events.Type(msg.Metadata.Get("stockstream.type")), msg.Payload)
		if err != nil {
			t.Fatalf("message %d: decode %q: %v", i, msg.Payload, err)
		}
		if event.Type() != events.TypeHoldCreated {
			t.Errorf("message %d: got type %s, want %s", i, event.Type(), events.TypeHoldCreated)
		}
		if reason := events.UnreadableReason(msg); reason != "" {
			t.Errorf("message %d: got the unreadable reason %q, want none", i, reason)
		}
		if msg.Metadata.Get("stockstream.seq") == "" {
			t.Errorf("message %d: got metadata %v, want a seq in it", i, msg.Metadata)
		}
	}
	garbage := got[1]
	if events.UnreadableReason(garbage) == "" {
		t.Errorf("garbage: got metadata %v, want an unreadable reason in it", garbage.Metadata)
	}
	if want := `{"garbage_base64":"/w=="}`; string(garbage.Payload) != want {
		t.Errorf("garbage: got payload %q, want %q", garbage.Payload, want)
	}
}

// readWithStockSubscriber reads n messages from the stream with watermill-redisstream's
// own subscriber.
func (f *fixture) readWithStockSubscriber(n int) []*message.Message {
	f.t.Helper()
	config := redisstream.SubscriberConfig{
		Client:        redis.NewClient(&redis.Options{Addr: f.server.Addr()}), // the subscriber closes it
		Unmarshaller:  events.Codec{},
		ConsumerGroup: "theirs",
		OldestId:      "0",
	}
	subscriber, err := redisstream.NewSubscriber(config, watermill.NopLogger{})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	messages, err := subscriber.Subscribe(ctx, events.MainPool.StreamKey())
	if err != nil {
		f.t.Fatal(err)
	}
	var got []*message.Message
	for len(got) < n {
		select {
		case msg := <-messages:
			got = append(got, msg)
			msg.Ack()
		case <-time.After(10 * time.Second):
			f.t.Fatalf("messages: got %d, want %d", len(got), n)
		}
	}
	if err := subscriber.Close(); err != nil {
		f.t.Error(err)
	}
	return got
}

// TestEntryPayloadIsReadableIfPostgresCanStoreIt checks that ParseEntry refuses exactly
// those JSON texts that Postgres refuses to store as jsonb.
func TestEntryPayloadIsReadableIfPostgresCanStoreIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, value := range []string{
		"", `\\`, `\u00e9`, `\u0000`, `a\u0000b`, `\\u0000`, `\\\u0000`, `\\\\u0000`, `\"\u0000`,
		`\ud83d\ude00`, `\uD83D\uDE00x`, `\ud83d`, `\ud83dx`, `\ud83d\n`, `\ud83d\u0041`, `\ude00`,
		`\ude00\ud83d`, `\ud83d\ud83d\ude00`, `\\ud83d`, `\ud83d\\ude00`, `\u12`, `\u`, "\x00", "\xff",
	} {
		payload := `{"a":"` + value + `"}`
		entry := events.ParseEntry("main", "1-1", map[string]any{
			"event_id": events.NewID(),
			"type":     "HOLD_CREATED",
			"payload":  payload,
			"seq":      "1",
			"at":       "1764000000000",
		})
		_, postgresErr := f.db.Exec(f.ctx, `SELECT $1::jsonb`, payload)
		if (entry.Err == nil) != (postgresErr == nil) {
			t.Errorf("%q: got %v from ParseEntry, want the same as Postgres: %v",
				payload, entry.Err, postgresErr)
		}
	}
}
