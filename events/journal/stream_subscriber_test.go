package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
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

// failingReads is a Redis that fails from its second read of the stream on.
type failingReads struct {
	reads  atomic.Int64
	failed chan struct{} // closed at the first failure
}

func (f *failingReads) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failingReads) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook.
func (f *failingReads) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "xread" && f.reads.Add(1) > 1 {
			if f.reads.Load() == 2 {
				close(f.failed)
			}
			err := errors.New("Redis died")
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// TestFetchedBatchIsDeliveredAlthoughRedisFails checks that a batch that was read is
// delivered although the next read has failed.
func TestFetchedBatchIsDeliveredAlthoughRedisFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	failing := &failingReads{failed: make(chan struct{})}
	f.redis.AddHook(failing)
	s := f.newStreamSubscriber()
	messages, err := s.Subscribe(f.ctx, events.MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	<-failing.failed
	f.awaitEntries(messages, 3)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// awaitEntries receives the next message, which must have this number of entries, and
// acknowledges it.
func (f *fixture) awaitEntries(messages <-chan *message.Message, want int) {
	f.t.Helper()
	select {
	case msg := <-messages:
		if got := len(worker.BatchOf[StreamBatch](msg).Entries); got != want {
			f.t.Errorf("batch: got %d entries, want %d", got, want)
		}
		msg.Ack()
	case <-time.After(20 * time.Second):
		f.t.Fatal("no batch was delivered within 20 seconds")
	}
}

// TestFetchedBatchIsDeliveredBeforeRedisIsWrittenTo checks that the batch in hand is
// delivered although the group could not be moved past the batch before it.
func TestFetchedBatchIsDeliveredBeforeRedisIsWrittenTo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(4)
	s := NewStreamSubscriber(StreamSubscriberConfig{
		Redis:    f.redis,
		Postgres: f.config,
		Pool:     events.MainPool,
		BatchMax: 2,
		Log:      slog.New(slog.DiscardHandler),
	})
	messages, err := s.Subscribe(f.ctx, events.MainPool.StreamKey())
	if err != nil {
		t.Fatal(err)
	}
	first := <-messages
	f.awaitCommandCalls("xread", 2) // the second batch is in hand
	f.redis.FlushAll(f.ctx)
	first.Ack() // the group is gone, so it cannot be moved
	f.awaitEntries(messages, 2)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// awaitCommandCalls waits until Redis has answered a command at least this often.
func (f *fixture) awaitCommandCalls(command string, want int) {
	f.t.Helper()
	testenv.Eventually(f.t, 20*time.Second, func() (bool, string) {
		stats, err := f.redis.InfoMap(f.ctx, "commandstats").Result()
		line := stats["Commandstats"]["cmdstat_"+command]
		calls, _, _ := strings.Cut(strings.TrimPrefix(line, "calls="), ",")
		n, _ := strconv.Atoi(calls)
		return n >= want, fmt.Sprintf("%s: %q (%v), want %d calls", command, line, err, want)
	})
}
