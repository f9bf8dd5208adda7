package sagas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// sweepDue makes one sweep over so many due holds, and returns how often each was delivered. What handle returns is
// what becomes of a hold; nothing takes it off the set but handle.
func sweepDue(t *testing.T, holds int, handle func(client *redis.Client, holdID string) error) (delivered map[string]int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := testenv.RedisClient(t, testenv.Redis(t))
	for i := range holds {
		client.ZAdd(ctx, events.MainPool.DueKey(), redis.Z{Score: 1, Member: fmt.Sprintf("h%04d", i)})
	}
	out, handled := make(chan *message.Message), make(chan struct{})
	delivered = map[string]int{}
	go func() {
		defer close(handled)
		for msg := range out {
			if delivered[msg.UUID]++; delivered[msg.UUID] > 2 { // it would go on for ever
				cancel()
			}
			_, err := worker.ReportFault(func(msg *message.Message) ([]*message.Message, error) {
				return nil, handle(client, msg.UUID)
			})(msg)
			if err != nil {
				msg.Nack()
			} else {
				msg.Ack()
			}
		}
	}()
	err = NewDueSubscriber(client, events.MainPool, slog.New(slog.DiscardHandler)).sweep(ctx, out)
	close(out)
	<-handled
	return delivered, err
}

// TestSweepDeliversOnce holds that a sweep delivers every hold that is due once, and ends, whatever becomes of them:
// also of those that were handled and are in the set as before, which is what a clock that was set back leaves.
func TestSweepDeliversOnce(t *testing.T) {
	t.Parallel()
	const holds = 2*dueInFlight + 10
	takeOff := func(client *redis.Client, holdID string) error {
		return client.ZRem(context.Background(), events.MainPool.DueKey(), holdID).Err()
	}
	odd := func(holdID string) bool { return holdID[len(holdID)-1]%2 == 1 }
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		handle    func(*redis.Client, string) error
		unhandled int
	}{
		"handled":                {handle: takeOff},
		"handled, but still due": {handle: func(*redis.Client, string) error { return nil }},
		"none handled":           {handle: func(*redis.Client, string) error { return broken }, unhandled: holds},
		"some handled, but still due": {unhandled: holds / 2, handle: func(_ *redis.Client, holdID string) error {
			if odd(holdID) {
				return broken
			}
			return nil
		}},
		"some handled": {unhandled: holds / 2, handle: func(client *redis.Client, holdID string) error {
			if odd(holdID) {
				return broken
			}
			return takeOff(client, holdID)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			delivered, err := sweepDue(t, holds, c.handle)
			if c.unhandled == 0 && err != nil || c.unhandled > 0 && (!errors.Is(err, broken) || err.Error() != fmt.Sprintf("%d due holds were not handled, the first for: broken", c.unhandled)) {
				t.Errorf("got %v, want %d not handled", err, c.unhandled)
			}
			for holdID, times := range delivered {
				if times != 1 {
					t.Errorf("%s was delivered %d times", holdID, times)
				}
			}
			if len(delivered) != holds {
				t.Errorf("%d holds were delivered, want %d", len(delivered), holds)
			}
		})
	}
}

// TestSweepEndsWhenAllAreRefused holds that a sweep ends, with the reason, at the first round in which nothing could be
// handled because nothing is at present; not where a single hold was handled, or failed for a reason of its own.
func TestSweepEndsWhenAllAreRefused(t *testing.T) {
	t.Parallel()
	const holds = 2 * dueInFlight
	for _, refusal := range []*commands.Error{commands.ErrNotReady, commands.ErrStale, commands.ErrUnavailable} {
		for name, c := range map[string]struct {
			first error // of the first hold; all others are refused
			want  int
		}{
			"all":     {first: refusal, want: dueInFlight},
			"but one": {first: errors.New("broken"), want: holds},
			"handled": {first: nil, want: holds},
		} {
			t.Run(refusal.Code+" "+name, func(t *testing.T) {
				t.Parallel()
				delivered, err := sweepDue(t, holds, func(_ *redis.Client, holdID string) error {
					if holdID == "h0000" {
						return c.first
					}
					return fmt.Errorf("cancel: %w", refusal)
				})
				if len(delivered) != c.want || err == nil {
					t.Errorf("%d holds were delivered (%v), want %d", len(delivered), err, c.want)
				}
				if c.want == dueInFlight && err.Error() != "no due hold can be handled: "+refusal.Error() {
					t.Errorf("got %q, want the reason", err)
				}
			})
		}
	}
}

// TestInFlightAtShutdown holds that a hold which was delivered can be handled to its end when the sweep is told to stop.
func TestInFlightAtShutdown(t *testing.T) {
	t.Parallel()
	client := testenv.RedisClient(t, testenv.Redis(t))
	client.ZAdd(t.Context(), events.MainPool.DueKey(), redis.Z{Score: 1, Member: "h1"}, redis.Z{Score: 1, Member: "h2"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, swept := make(chan *message.Message), make(chan error, 1)
	go func() {
		swept <- NewDueSubscriber(client, events.MainPool, slog.New(slog.DiscardHandler)).sweep(ctx, out)
	}()
	msg := <-out
	stop()
	if err := msg.Context().Err(); err != nil {
		t.Errorf("the hold in flight: %v", err)
	}
	msg.Ack()
	if err := <-swept; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the sweep was stopped", err)
	}
}
