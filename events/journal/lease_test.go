package journal

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestStoppedRunner holds that a line goes on elsewhere where its runner was stopped (SIGSTOP, a frozen machine), be it
// between two transactions or within one, and that a lease for work of another kind is kept, however long that takes.
func TestStoppedRunner(t *testing.T) {
	t.Parallel()
	for _, within := range []bool{false, true} {
		t.Run(fmt.Sprintf("journal, within a transaction %t", within), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.append(3)
			config := StreamSubscriberConfig{Redis: p.redis, Postgres: p.config, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}
			first, second := NewStreamSubscriber(config), NewStreamSubscriber(config)
			p.stopAndTakeOver(events.MainPool.StreamKey(), first, second, within, func(msg *message.Message) *worker.Lease { return worker.BatchOf[StreamBatch](msg).Lease })
		})
		t.Run(fmt.Sprintf("reader, within a transaction %t", within), func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.record(3)
			config := SubscriberConfig{Postgres: p.config, Pool: events.MainPool, Pages: NewPageCache(events.MainPool), Reader: "reader", Log: slog.New(slog.DiscardHandler)}
			first, second := NewSubscriber(config), NewSubscriber(config)
			p.stopAndTakeOver(Topic(events.MainPool), first, second, within, func(msg *message.Message) *worker.Lease { return worker.BatchOf[Batch](msg).Lease })
		})
	}
}

// stopAndTakeOver has one subscriber deliver and hear nothing more, and waits until another delivers.
func (p *plant) stopAndTakeOver(topic string, first, second message.Subscriber, within bool, leaseOf func(*message.Message) *worker.Lease) {
	p.t.Helper()
	other, err := worker.AcquireLease(p.ctx, p.config, "other")
	if err != nil {
		p.t.Fatal(err)
	}
	defer other.Release()
	stopped := p.nextFrom(topic, first)
	if within {
		if _, err := leaseOf(stopped).Conn.Exec(p.ctx, `BEGIN`); err != nil {
			p.t.Fatal(err)
		}
	}
	p.nextFrom(topic, second)
	if err := other.Conn.Ping(p.ctx); err != nil {
		p.t.Errorf("a lease that is no line's was lost: %v", err)
	}
}

// nextFrom subscribes, and returns the first message. It is handled until the test ends.
func (p *plant) nextFrom(topic string, subscriber message.Subscriber) *message.Message {
	p.t.Helper()
	messages, err := subscriber.Subscribe(p.ctx, topic)
	if err != nil {
		p.t.Fatal(err)
	}
	select {
	case msg := <-messages:
		p.t.Cleanup(func() {
			msg.Nack()
			if err := subscriber.Close(); err != nil {
				p.t.Error(err)
			}
		})
		return msg
	case <-time.After(20 * time.Second):
		p.t.Fatal("nothing was delivered")
		return nil
	}
}

// TestRaiseMeetsAStoppedRunner holds that raising the epoch waits for a batch no longer than a batch may take, and that it
// is done once the runner that was stopped within one has lost its session.
func TestRaiseMeetsAStoppedRunner(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	lease, err := worker.AcquireWorkerLease(p.ctx, p.config, "journal/main")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	tx, err := lease.Conn.Begin(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.MoveCheckpoint(p.ctx, tx, CheckpointName, "main", 0, 3); err != nil {
		t.Fatal(err)
	}
	if _, _, err := RaiseEpoch(p.ctx, p.db, "main", 1); err == nil || !containsText(err.Error(), "lock timeout") {
		t.Errorf("while the runner has its session: got %v, want a lock timeout", err)
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		epoch, journaled, err := RaiseEpoch(p.ctx, p.db, "main", 1)
		return err == nil && epoch == 2 && journaled == 0, fmt.Sprintf("raised to %d at %d (%v), want 2 at 0", epoch, journaled, err)
	})
}
