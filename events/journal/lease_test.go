package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestFrozenWorkerLosesItsLease checks that another process takes over from a worker
// whose process is frozen (SIGSTOP, a paused machine), be it between two transactions or
// within one, and that a lease that belongs to no worker is kept however long its holder
// is idle.
func TestFrozenWorkerLosesItsLease(t *testing.T) {
	t.Parallel()
	for _, inTransaction := range []bool{false, true} {
		t.Run(fmt.Sprintf("journal, within a transaction %t", inTransaction), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEvents(3)
			config := StreamSubscriberConfig{
				Redis:    f.redis,
				Postgres: f.config,
				Pool:     events.MainPool,
				Log:      slog.New(slog.DiscardHandler),
			}
			f.requireTakeover(takeover{
				topic:         events.MainPool.StreamKey(),
				frozen:        NewStreamSubscriber(config),
				successor:     NewStreamSubscriber(config),
				inTransaction: inTransaction,
				leaseOf: func(msg *message.Message) *worker.Lease {
					return worker.BatchOf[StreamBatch](msg).Lease
				},
			})
		})
		t.Run(fmt.Sprintf("reader, within a transaction %t", inTransaction), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.insertHistory(3)
			config := f.subscriberConfig("reader", NewPageCache(events.MainPool))
			f.requireTakeover(takeover{
				topic:         Topic(events.MainPool),
				frozen:        NewSubscriber(config),
				successor:     NewSubscriber(config),
				inTransaction: inTransaction,
				leaseOf: func(msg *message.Message) *worker.Lease {
					return worker.BatchOf[Batch](msg).Lease
				},
			})
		})
	}
}

// takeover names two subscribers of one topic that need the same lease.
type takeover struct {
	topic         string
	frozen        message.Subscriber // the one that freezes while it handles its first message
	successor     message.Subscriber
	inTransaction bool // whether the frozen one has an open transaction
	leaseOf       func(*message.Message) *worker.Lease
}

// requireTakeover leaves the first message of the frozen subscriber unanswered and waits
// until the successor delivers that message. It also checks that a lease of no worker
// survives that time.
func (f *fixture) requireTakeover(test takeover) {
	f.t.Helper()
	idle, err := worker.AcquireLease(f.ctx, f.config, "other")
	if err != nil {
		f.t.Fatal(err)
	}
	defer idle.Release()
	unanswered := f.firstMessage(test.topic, test.frozen)
	if test.inTransaction {
		if _, err := test.leaseOf(unanswered).Conn.Exec(f.ctx, `BEGIN`); err != nil {
			f.t.Fatal(err)
		}
	}
	f.firstMessage(test.topic, test.successor)
	if err := idle.Conn.Ping(f.ctx); err != nil {
		f.t.Errorf("session of an idle lease that is no worker's: got %v, want it open", err)
	}
}

// firstMessage subscribes to a topic and returns the first message. The message stays
// unanswered until the test ends.
func (f *fixture) firstMessage(topic string, subscriber message.Subscriber) *message.Message {
	f.t.Helper()
	messages, err := subscriber.Subscribe(f.ctx, topic)
	if err != nil {
		f.t.Fatal(err)
	}
	select {
	case msg := <-messages:
		f.t.Cleanup(func() {
			msg.Nack()
			if err := subscriber.Close(); err != nil {
				f.t.Error(err)
			}
		})
		return msg
	case <-time.After(20 * time.Second):
		f.t.Fatal("no message was delivered within 20 seconds")
		return nil
	}
}

// TestRaiseEpochGivesUpOnAFrozenWorker checks that RaiseEpoch waits for an open batch no
// longer than a batch may take, and that it succeeds once the frozen worker of that batch
// has lost its session.
func TestRaiseEpochGivesUpOnAFrozenWorker(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	lease, err := worker.AcquireWorkerLease(f.ctx, f.config, "journal/main")
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	tx, err := lease.Conn.Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.MoveCheckpoint(f.ctx, tx, CheckpointName, "main", 0, 3); err != nil {
		t.Fatal(err)
	}
	_, _, err = RaiseEpoch(f.ctx, f.db, "main", Raise{Above: 1})
	if err == nil || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("raise while the worker has its session: got %v, want a lock timeout", err)
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		epoch, journaled, err := RaiseEpoch(f.ctx, f.db, "main", Raise{Above: 1})
		detail := fmt.Sprintf("raised to epoch %d at seq %d (%v), want epoch 2 at seq 0",
			epoch, journaled, err)
		return err == nil && epoch == 2 && journaled == 0, detail
	})
}

// requestLease asks for the journal's lease in the background.
func (f *fixture) requestLease(waitMax time.Duration) <-chan error {
	f.t.Helper()
	granted := make(chan error, 1)
	go func() {
		lease, err := worker.RequestLease(f.ctx, f.config, LeaseName(events.MainPool), waitMax)
		if err == nil {
			f.t.Cleanup(lease.Release)
		}
		granted <- err
	}()
	return granted
}

// TestRequestedLeaseIsHandedOverAfterTheBatchInFlight checks that a worker that is asked
// for its lease first finishes its batch, that it counts the end of its run as no
// failure, and that it goes on once the lease is free.
func TestRequestedLeaseIsHandedOverAfterTheBatchInFlight(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	s := f.newStreamSubscriber()
	msg := f.firstMessage(events.MainPool.StreamKey(), s)
	lease := worker.BatchOf[StreamBatch](msg).Lease
	granted := f.requestLease(time.Minute)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		requested, err := lease.Requested(f.ctx)
		return requested, fmt.Sprintf("no session waits for the lease (%v)", err)
	})
	select {
	case err := <-granted:
		t.Fatalf("lease: got it (%v) while the batch is in flight", err)
	default:
	}
	msg.Ack()
	if err := <-granted; err != nil {
		t.Fatalf("request the lease: %v", err)
	}
	f.awaitState(s.Worker, worker.Waiting)
	if status := s.Status(); status.Error != "" {
		t.Errorf("worker: got error %q, want none", status.Error)
	}
}

// TestRequestOfALeaseGivesUp checks that the request for a lease that is not given up
// fails after its time.
func TestRequestOfALeaseGivesUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	held, err := worker.AcquireLease(f.ctx, f.config, LeaseName(events.MainPool))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	if err := <-f.requestLease(100 * time.Millisecond); !errors.Is(err, worker.ErrLeased) {
		t.Errorf("request: got %v, want ErrLeased", err)
	}
}

// TestFrozenWorkerLosesItsLeaseToARequest checks that a request gets the lease of a
// worker whose process is frozen.
func TestFrozenWorkerLosesItsLeaseToARequest(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	f.firstMessage(events.MainPool.StreamKey(), f.newStreamSubscriber())
	if err := <-f.requestLease(time.Minute); err != nil {
		t.Errorf("request: %v", err)
	}
}
