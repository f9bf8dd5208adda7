package journal

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestGather holds that a line which keeps up, but slowly, is given fewer and larger batches, and all entries in order.
func TestGather(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	s := NewStreamSubscriber(StreamSubscriberConfig{Redis: p.redis, Postgres: p.config, Pool: events.MainPool, Keep: time.Hour, Log: slog.New(slog.DiscardHandler)})
	messages, err := s.Subscribe(p.ctx, events.MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	const entries, slow = 200, gatherMax / gatherRatio
	go func() {
		for range entries {
			p.append(1)
			<-time.After(2 * time.Millisecond)
		}
	}()
	var next, batches int64 = 1, 0
	var began time.Time
	for next <= entries {
		msg := <-messages
		if batches++; batches == 1 {
			began = time.Now()
		}
		for _, entry := range worker.BatchOf[StreamBatch](msg).Entries {
			if entry.Envelope.Seq != next {
				t.Fatalf("got seq %d, want %d", entry.Envelope.Seq, next)
			}
			next++
		}
		<-time.After(slow)
		msg.Ack()
	}
	// The first two are fetched before it is known how long a batch takes.
	if most := 3 + int64(time.Since(began)/gatherMax); batches > most {
		t.Errorf("%d batches in %s, want at most %d", batches, time.Since(began), most)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestAcknowledgedAtShutdown holds that the group is told of a batch which was being handled when the intake was stopped.
func TestAcknowledgedAtShutdown(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(5)
	s := NewStreamSubscriber(StreamSubscriberConfig{Redis: p.redis, Postgres: p.config, Pool: events.MainPool, Keep: time.Hour, Log: slog.New(slog.DiscardHandler)})
	ctx, stopIntake := context.WithCancel(p.ctx)
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
	groups, err := p.redis.XInfoGroups(p.ctx, events.MainPool.StreamKey()).Result()
	if want := p.entries()[4].StreamID; err != nil || len(groups) != 1 || groups[0].LastDeliveredID != want {
		t.Errorf("the groups are %+v (%v), want one that stands at %s", groups, err, want)
	}
}
