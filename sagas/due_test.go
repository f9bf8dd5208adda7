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

// sweepDue sweeps once over a set of due holds and returns how often each hold was
// delivered. handle decides the result of each delivery; a hold leaves the set only if
// handle removes it.
func sweepDue(
	t *testing.T, holds int, handle func(client *redis.Client, holdID string) error,
) (delivered map[string]int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	client := testenv.RedisClient(t, testenv.Redis(t))
	for i := range holds {
		client.ZAdd(ctx, events.MainPool.DueKey(), redis.Z{Score: 1, Member: fmt.Sprintf("h%04d", i)})
	}
	out := make(chan *message.Message)
	handled := make(chan struct{})
	delivered = map[string]int{}
	go func() {
		defer close(handled)
		for msg := range out {
			delivered[msg.UUID]++
			if delivered[msg.UUID] > 2 { // stop a sweep that would never end
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
	_, err = newDueSubscriber(client, events.MainPool, slog.New(slog.DiscardHandler)).sweep(ctx, out, allDue)
	close(out)
	<-handled
	return delivered, err
}

// TestSweepDeliversEachDueHoldOnce checks that a sweep delivers every due hold once and
// ends, whether the holds are handled or not. A hold that was handled can still be due if
// Redis's clock was set back.
func TestSweepDeliversEachDueHoldOnce(t *testing.T) {
	t.Parallel()
	const holds = 2*dueInFlight + 10
	removeFromSet := func(client *redis.Client, holdID string) error {
		return client.ZRem(context.Background(), events.MainPool.DueKey(), holdID).Err()
	}
	odd := func(holdID string) bool { return holdID[len(holdID)-1]%2 == 1 }
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		handle    func(*redis.Client, string) error
		unhandled int
	}{
		"handled":                {handle: removeFromSet},
		"handled, but still due": {handle: func(*redis.Client, string) error { return nil }},
		"none handled": {
			handle:    func(*redis.Client, string) error { return broken },
			unhandled: holds,
		},
		"some handled, but still due": {unhandled: holds / 2, handle: func(
			_ *redis.Client, holdID string,
		) error {
			if odd(holdID) {
				return broken
			}
			return nil
		}},
		"some handled": {unhandled: holds / 2, handle: func(client *redis.Client, holdID string) error {
			if odd(holdID) {
				return broken
			}
			return removeFromSet(client, holdID)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			delivered, err := sweepDue(t, holds, c.handle)
			if c.unhandled == 0 {
				if err != nil {
					t.Errorf("all holds were handled: got the error %v", err)
				}
			} else {
				if !errors.Is(err, broken) {
					t.Errorf("got the error %v, want it to wrap %v", err, broken)
				}
				want := fmt.Sprintf("%d due holds were not handled; the first error: broken", c.unhandled)
				if fmt.Sprint(err) != want {
					t.Errorf("got the error %v, want %s", err, want)
				}
			}
			for holdID, times := range delivered {
				if times != 1 {
					t.Errorf("hold %s: got %d deliveries, want 1", holdID, times)
				}
			}
			if len(delivered) != holds {
				t.Errorf("got %d holds delivered, want %d", len(delivered), holds)
			}
		})
	}
}

// TestSweepStopsWhenCommandsAreRefused checks that a sweep stops after the first batch if
// commands refuse every hold for a reason that concerns all holds. It goes on if one hold
// was handled, or failed for a reason of its own.
func TestSweepStopsWhenCommandsAreRefused(t *testing.T) {
	t.Parallel()
	const holds = 2 * dueInFlight
	for _, refusal := range []*commands.Error{
		commands.ErrNotReady,
		commands.ErrOtherServer,
		commands.ErrStale,
		commands.ErrUnavailable,
	} {
		for name, c := range map[string]struct {
			first error // the result of the first hold; all others get the refusal
			want  int   // holds delivered
		}{
			"all refused": {first: refusal, want: dueInFlight},
			"one broken":  {first: errors.New("broken"), want: holds},
			"one handled": {first: nil, want: holds},
		} {
			t.Run(refusal.Code+" "+name, func(t *testing.T) {
				t.Parallel()
				delivered, err := sweepDue(t, holds, func(_ *redis.Client, holdID string) error {
					if holdID == "h0000" {
						return c.first
					}
					return fmt.Errorf("cancel: %w", refusal)
				})
				if len(delivered) != c.want {
					t.Errorf("got %d holds delivered, want %d", len(delivered), c.want)
				}
				if err == nil {
					t.Fatal("got no error, want the refusal")
				}
				if want := "no due hold can be handled: " + refusal.Error(); c.want == dueInFlight &&
					err.Error() != want {
					t.Errorf("got the error %q, want %q", err, want)
				}
			})
		}
	}
}

// TestShutdownFinishesTheHoldInFlight checks that a hold which was delivered can still be
// handled after the sweep's context is cancelled.
func TestShutdownFinishesTheHoldInFlight(t *testing.T) {
	t.Parallel()
	client := testenv.RedisClient(t, testenv.Redis(t))
	client.ZAdd(t.Context(), events.MainPool.DueKey(), redis.Z{Score: 1, Member: "h1"},
		redis.Z{Score: 1, Member: "h2"})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out := make(chan *message.Message)
	swept := make(chan error, 1)
	go func() {
		s := newDueSubscriber(client, events.MainPool, slog.New(slog.DiscardHandler))
		_, err := s.sweep(ctx, out, allDue)
		swept <- err
	}()
	msg := <-out
	stop()
	if err := msg.Context().Err(); err != nil {
		t.Errorf("the context of the hold in flight ended: %v", err)
	}
	msg.Ack()
	if err := <-swept; !errors.Is(err, context.Canceled) {
		t.Errorf("the sweep returned %v, want %v", err, context.Canceled)
	}
}
