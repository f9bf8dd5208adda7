package sagas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/logonce"
	"github.com/stockstream/stockstream/internal/worker"
)

// dueSubscriber delivers the holds of one pool whose deadline has passed by Redis's
// clock: one message per hold, with the hold's id as its UUID. Expiries need no order, so
// it delivers up to dueInFlight holds at once.
type dueSubscriber struct {
	*worker.Worker
	redis redis.Cmdable
	pool  events.Pool
	log   *slog.Logger
	// logged is the trouble that run has logged last.
	logged logonce.Last
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
	return &dueSubscriber{
		Worker: worker.New("saga", log),
		redis:  client,
		pool:   pool,
		log:    log,
	}
}

// Subscribe implements message.Subscriber. The topic must be the key of the pool's set of
// due holds.
func (s *dueSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != s.pool.DueKey() {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads only %q", topic, s.pool.DueKey())
	}
	return s.Start(ctx, s.run)
}

// run sweeps the due set every dueInterval until a sweep fails. If holds stay due because
// a key is invalid, the worker's status says so, and the log says it once.
func (s *dueSubscriber) run(ctx context.Context, out chan<- *message.Message) error {
	tick := time.NewTicker(dueInterval)
	defer tick.Stop()
	var pace backOff
	for {
		result, err := s.sweep(ctx, out, pace.begin(time.Now()))
		if err != nil {
			return err
		}
		pace.end(result, time.Now())
		trouble := pace.trouble()
		switch {
		case !s.logged.Changes(trouble):
		case trouble == "":
			s.log.Info("all due holds can be cancelled again")
		default:
			s.log.Error("holds stay due: repair the key, and they expire by themselves", "error", trouble)
		}
		s.RunningWith(trouble)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sweepResult is the result of a sweep that did not fail.
type sweepResult struct {
	end   int64 // ms: the latest deadline of the sweep
	kept  int   // holds that stay due because a key is invalid
	first error // of the first of them
}

// backOff decides where sweeps begin. While holds stay due because a key is invalid, most
// sweeps leave them out and begin where the sweep before ended. A sweep of all due holds
// follows after a pause, which doubles from keptPauseMin to keptPauseMax.
type backOff struct {
	kept    sweepResult // since the last sweep of all due holds began
	all     bool        // whether the present sweep is one of all due holds
	pause   time.Duration
	nextAll time.Time
}

const (
	keptPauseMin = time.Second
	keptPauseMax = 30 * time.Second

	allDue = math.MinInt64 // the deadline after which a sweep of all due holds begins
)

// begin returns the deadline, in ms, after which the next sweep begins.
func (b *backOff) begin(now time.Time) (after int64) {
	b.all = b.kept.kept == 0 || now.After(b.nextAll)
	if b.all {
		return allDue
	}
	return b.kept.end
}

// end records the result of the sweep.
func (b *backOff) end(result sweepResult, now time.Time) {
	if !b.all {
		b.kept.end = result.end
		b.kept.kept += result.kept
		return
	}
	b.kept = result
	b.pause = min(max(2*b.pause, keptPauseMin), keptPauseMax)
	if result.kept == 0 {
		b.pause = 0
	}
	b.nextAll = now.Add(b.pause)
}

// trouble names the first hold that stays due and the reason, or is "".
func (b *backOff) trouble() string {
	if b.kept.kept == 0 {
		return ""
	}
	return b.kept.first.Error()
}

// sweep delivers each hold that is due at its start, and whose deadline is later than
// after, once, in batches, whether or not the hold can be handled:
//
//  1. It reads the due holds with the earliest deadlines. A handled hold leaves the due
//     set, so the next batch is usually read from the same offset.
//  2. If it reads a hold of the batch before again, that hold is still in the set: it was
//     not handled, or Redis's clock was set back. sweep moves the offset past it, so that
//     it does not block the others. The next sweep tries it again.
//  3. If no hold of a batch could be handled, and each error would occur for every other
//     hold too (Redis is unavailable, for example), the sweep stops.
//
// It fails if a hold was not handled, unless the reason is an invalid key.
func (s *dueSubscriber) sweep(
	ctx context.Context, out chan<- *message.Message, after int64,
) (result sweepResult, err error) {
	now, err := stream.ReadTime(ctx, s.redis, s.pool)
	if err != nil {
		return result, err
	}
	result.end = max(now.UnixMilli(), after)
	var (
		offset     int64
		previous   []string // the batch before
		unhandled  int
		firstFault error
	)
	for {
		batch, err := s.redis.ZRangeByScore(ctx, s.pool.DueKey(), &redis.ZRangeBy{
			Min:    "(" + strconv.FormatInt(after, 10),
			Max:    strconv.FormatInt(result.end, 10),
			Offset: offset,
			Count:  dueInFlight,
		}).Result()
		if err != nil {
			return result, fmt.Errorf("read due holds: %w", err)
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
			return result, err
		}
		allFailed := len(faults) > 0 && len(faults) == len(batch)
		if allFailed && !slices.ContainsFunc(faults, concernsOneHold) {
			return result, fmt.Errorf("no due hold can be handled: %w", faults[0])
		}
		for _, fault := range faults {
			switch {
			case errors.Is(fault, commands.ErrStateInvalid):
				result.kept++
				result.first = cmp.Or(result.first, fault)
			default:
				unhandled++
				firstFault = cmp.Or(firstFault, fault)
			}
		}
		previous = batch
	}
	if unhandled > 0 {
		err = fmt.Errorf("%d due holds were not handled; the first error: %w", unhandled, firstFault)
	}
	return result, err
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
