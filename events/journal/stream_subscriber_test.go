package journal

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// newStreamSubscriber returns a subscriber of the fixture's stream.
func (f *fixture) newStreamSubscriber() *StreamSubscriber {
	return NewStreamSubscriber(StreamSubscriberConfig{
		Redis:    f.redis,
		Postgres: f.config,
		Pool:     events.MainPool,
		Keep:     time.Hour,
		Log:      slog.New(slog.DiscardHandler),
	})
}

// TestSlowJournalGetsFewerLargerBatches checks that a handler that keeps up with the
// stream, but is slow, is given few large batches instead of many small ones, with all
// entries in order.
func TestSlowJournalGetsFewerLargerBatches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.newStreamSubscriber()
	messages, err := s.Subscribe(f.ctx, events.MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	const (
		entries    = 200
		handleTime = gatherMax / gatherRatio
	)
	go func() {
		for range entries {
			f.appendEvents(1)
			<-time.After(2 * time.Millisecond)
		}
	}()
	next := int64(1)
	batches := int64(0)
	var began time.Time
	for next <= entries {
		msg := <-messages
		batches++
		if batches == 1 {
			began = time.Now()
		}
		for _, entry := range worker.BatchOf[StreamBatch](msg).Entries {
			if entry.Envelope.Seq != next {
				t.Fatalf("batch %d: got seq %d, want %d", batches, entry.Envelope.Seq, next)
			}
			next++
		}
		<-time.After(handleTime)
		msg.Ack()
	}
	// The first two batches are read before the subscriber knows how long the handler
	// takes.
	if batchesMax := 3 + int64(time.Since(began)/gatherMax); batches > batchesMax {
		t.Errorf("batches within %s: got %d, want at most %d", time.Since(began), batches, batchesMax)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestBatchInFlightIsAcknowledgedAtShutdown checks that the group is moved past a batch
// that was in flight when the subscriber's intake stopped.
func TestBatchInFlightIsAcknowledgedAtShutdown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(5)
	s := f.newStreamSubscriber()
	ctx, stopIntake := context.WithCancel(f.ctx)
	defer stopIntake()
	messages, err := s.Subscribe(ctx, events.MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	msg := <-messages
	stopIntake()
	msg.Ack()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	groups, err := f.redis.XInfoGroups(f.ctx, events.MainPool.StreamKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(groups) != 1 {
		t.Fatalf("groups of the stream: got %+v, want 1", groups)
	}
	if want := f.streamEntries()[4].StreamID; groups[0].LastDeliveredID != want {
		t.Errorf("last-delivered id of the group: got %s, want %s", groups[0].LastDeliveredID, want)
	}
}
