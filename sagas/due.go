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
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// dueSubscriber delivers the holds of one pool whose deadline has passed by Redis's
// clock: one message per hold, with the hold's id as its UUID. Expiries need no order, so
// it delivers up to dueInFlight holds at once.
type dueSubscriber struct {
	*worker.Worker
	redis redis.Cmdable
	pool  events.Pool
}

const (
	dueInterval   = 200 * time.Millisecond // the pause between sweeps, and so the usual delay of an expiry
	dueInFlight   = 256                    // holds delivered at once
	expiryTimeout = 15 * time.Second       // for the holds in flight, also during shutdown
)

var _ message.Subscriber = (*dueSubscriber)(nil)

// newDueSubscriber returns a subscriber for one pool's due holds. It does not close the
// client.
func newDueSubscriber(client redis.Cmdable, pool events.Pool, log *slog.Logger) *dueSubscriber {
	return &dueSubscriber{Worker: worker.New("saga", log), redis: client, pool: pool}
}

// Subscribe implements message.Subscriber. The topic must be the key of the pool's set of
// due holds.
func (s *dueSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != s.pool.DueKey() {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads only %q", topic, s.pool.DueKey())
	}
	return s.Start(ctx, s.run)
}

// run sweeps the due set every dueInterval until a sweep fails.
func (s *dueSubscriber) run(ctx context.Context, out chan<- *message.Message) error {
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

// sweep delivers each hold that is due at its start once, in batches, whether or not the
// hold can be handled:
//
//  1. It reads the due holds with the earliest deadlines. A handled hold leaves the due
//     set, so the next batch is usually read from the same offset.
//  2. If it reads a hold of the batch before again, that hold is still in the set: it was
//     not handled, or Redis's clock was set back. sweep moves the offset past it, so that
//     it does not block the others. The next sweep tries it again.
//  3. If no hold of a batch could be handled, and each error would occur for every other
//     hold too (Redis is unavailable, for example), the sweep stops.
func (s *dueSubscriber) sweep(ctx context.Context, out chan<- *message.Message) error {
	now, err := stream.ReadTime(ctx, s.redis, s.pool)
	if err != nil {
		return err
	}
	var (
		offset     int64
		previous   []string // the batch before
		unhandled  int
		firstFault error
	)
	for {
		batch, err := s.redis.ZRangeByScore(ctx, s.pool.DueKey(), &redis.ZRangeBy{
			Min:    "-inf",
			Max:    strconv.FormatInt(now.UnixMilli(), 10),
			Offset: offset,
			Count:  dueInFlight,
		}).Result()
		if err != nil {
			return fmt.Errorf("read due holds: %w", err)
		}
		if len(batch) == 0 {
			break
		}
		read := len(batch)
		batch = slices.DeleteFunc(batch, func(holdID string) bool {
			return slices.Contains(previous, holdID)
		})
		offset += int64(read - len(batch))

		faults, err := deliverAll(ctx, out, batch)
		if err != nil {
			return err
		}
		allFailed := len(faults) > 0 && len(faults) == len(batch)
		if allFailed && !slices.ContainsFunc(faults, concernsOneHold) {
			return fmt.Errorf("no due hold can be handled: %w", faults[0])
		}
		if unhandled == 0 && len(faults) > 0 {
			firstFault = faults[0]
		}
		unhandled += len(faults)
		previous = batch
	}
	if unhandled > 0 {
		return fmt.Errorf("%d due holds were not handled; the first error: %w", unhandled, firstFault)
	}
	return nil
}

// deliverAll delivers the holds at once, waits until each is acknowledged or refused, and
// returns the errors of those that were refused. If ctx ends, it delivers no further
// hold, but still waits for the holds in flight.
func deliverAll(
	ctx context.Context, out chan<- *message.Message, holdIDs []string,
) (faults []error, err error) {
	handling, cancel := context.WithTimeout(context.WithoutCancel(ctx), expiryTimeout)
	defer cancel()
	var inFlight []*worker.Delivery
	for i := 0; i < len(holdIDs) && err == nil; i++ {
		delivery := worker.NewDelivery(handling, holdIDs[i], nil)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case out <- delivery.Message:
			inFlight = append(inFlight, delivery)
		}
	}
	for _, delivery := range inFlight {
		if fault := delivery.Wait(); fault != nil {
			faults = append(faults, fault)
		}
	}
	return faults, err
}

// concernsOneHold reports whether other holds may be handled although this error was
// returned for one hold.
func concernsOneHold(err error) bool {
	return !commands.RefusesEveryCommand(err) && !errors.Is(err, commands.ErrUnavailable)
}
