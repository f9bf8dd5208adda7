package sagas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// DueSubscriber delivers holds whose deadline has passed, by Redis's clock: one message per hold, its UUID the hold's
// id. Messages are in flight together, since they have no order among themselves.
type DueSubscriber struct {
	*worker.Worker
	redis redis.Cmdable
	pool  events.Pool
}

const (
	dueInterval   = 200 * time.Millisecond // between looks at the set, and so how late an expiry begins
	dueInFlight   = 256
	expiryTimeout = 15 * time.Second // for one hold, at shutdown too
)

var _ message.Subscriber = (*DueSubscriber)(nil)

// NewDueSubscriber returns a subscriber for one pool's due holds. The client stays the caller's to close.
func NewDueSubscriber(client redis.Cmdable, pool events.Pool, log *slog.Logger) *DueSubscriber {
	return &DueSubscriber{Worker: worker.New("saga", log), redis: client, pool: pool}
}

// Subscribe implements message.Subscriber. The topic must be the pool's set of due holds.
func (s *DueSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != s.pool.DueKey() {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, s.pool.DueKey())
	}
	return s.Start(ctx, s.watch)
}

// watch sweeps the set again and again, until a sweep fails.
func (s *DueSubscriber) watch(ctx context.Context, out chan<- *message.Message) error {
	tick := time.NewTicker(dueInterval)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx, out); err != nil {
			return err
		}
		s.Running()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sweep delivers every hold that is due now, each once, whatever became of it. One that is read again is passed over
// until the next sweep, so that it blocks nobody: it was not handled, or Redis's clock was set back meanwhile. Where all
// holds of a round are refused for a reason that is none of theirs, so would be the others, and the sweep ends.
func (s *DueSubscriber) sweep(ctx context.Context, out chan<- *message.Message) error {
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return fmt.Errorf("read Redis's clock: %w", err)
	}
	var (
		delivered         []string // in the round before: in the set, what is left of them stands before all others
		passed, unhandled int
		fault             error
	)
	for {
		due, err := s.redis.ZRangeByScore(ctx, s.pool.DueKey(), &redis.ZRangeBy{
			Min: "-inf", Max: strconv.FormatInt(now.UnixMilli(), 10), Offset: int64(passed), Count: dueInFlight,
		}).Result()
		if err != nil {
			return fmt.Errorf("read due holds: %w", err)
		}
		if len(due) == 0 {
			break
		}
		read := len(due)
		due = slices.DeleteFunc(due, func(holdID string) bool { return slices.Contains(delivered, holdID) })
		passed += read - len(due)
		faults, err := deliverAll(ctx, out, due)
		if err != nil {
			return err
		}
		if len(faults) > 0 && len(faults) == len(due) && !slices.ContainsFunc(faults, isForOne) {
			return fmt.Errorf("no due hold can be handled: %w", faults[0])
		}
		if unhandled += len(faults); fault == nil && len(faults) > 0 {
			fault = faults[0]
		}
		delivered = due
	}
	if unhandled > 0 {
		return fmt.Errorf("%d due holds were not handled, the first for: %w", unhandled, fault)
	}
	return nil
}

// deliverAll delivers the holds together, waits for all of them, and returns the errors of those that
// were not acknowledged.
func deliverAll(ctx context.Context, out chan<- *message.Message, due []string) (faults []error, err error) {
	handling, cancel := context.WithTimeout(context.WithoutCancel(ctx), expiryTimeout)
	defer cancel()
	var inFlight []*worker.Delivery
	for i := 0; i < len(due) && err == nil; i++ {
		d := worker.NewDelivery(handling, due[i], nil)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case out <- d.Message:
			inFlight = append(inFlight, d)
		}
	}
	for _, d := range inFlight {
		if fault := d.Wait(); fault != nil {
			faults = append(faults, fault)
		}
	}
	return faults, err
}

// isForOne reports whether the fault says nothing about other holds.
func isForOne(fault error) bool {
	return !errors.Is(fault, commands.ErrNotReady) && !errors.Is(fault, commands.ErrStale) && !errors.Is(fault, commands.ErrUnavailable)
}
