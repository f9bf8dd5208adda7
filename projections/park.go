package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sort"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
)

// park is the middleware that keeps one bad event from stopping a projection. For each
// batch it
//
//  1. decodes the events that the projection wants,
//  2. passes them on to be applied,
//  3. if that fails for good, bisects the batch down to the event that cannot be applied
//     and parks it as a dead letter, together with every later event of the same sequence
//     key. All other events are applied.
func park(p Projection, log *slog.Logger) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			ctx := msg.Context()
			batch := txBatchOf(msg)
			parkedKeys, err := deadletters.ParkedKeys(ctx, batch.tx, p.Name, batch.pool)
			if err != nil {
				return nil, err
			}
			b := &bisection{
				projection: p,
				blocked:    map[string]int64{},
				try: func(ready []Event) error {
					return applyInSavepoint(ctx, msg, next, batch.tx, ready)
				},
			}
			for key := range parkedKeys {
				b.blocked[key] = 0
			}
			if err := b.apply(b.decode(batch.fresh)); err != nil {
				return nil, err
			}
			if len(b.letters) == 0 {
				return nil, nil
			}
			sort.Slice(b.letters, func(i, j int) bool { return b.letters[i].Seq < b.letters[j].Seq })
			first := b.letters[0]
			log.Error("events parked as dead letters",
				"count", len(b.letters), "first_seq", first.Seq, "error", first.Error)
			return nil, deadletters.Park(ctx, batch.tx, b.letters...)
		}
	}
}

// applyInSavepoint passes events to next within a savepoint, so that a failure rolls back
// only their own writes. It turns a panic into an error.
func applyInSavepoint(
	ctx context.Context, msg *message.Message, next message.HandlerFunc, tx pgx.Tx, ready []Event,
) error {
	return pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = &panicError{value: value, stack: string(debug.Stack())}
			}
		}()
		b := &txBatch{tx: savepoint, ready: ready}
		b.setOn(msg)
		_, err = next(msg)
		return err
	})
}

// panicError is a panic of Apply.
type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// bisection applies one batch, and collects the dead letters of the events that it could
// not apply.
type bisection struct {
	projection Projection
	try        func([]Event) error
	// blocked has the sequence keys with a parked event, and the seq of the first such
	// event in this batch. The seq is 0 if the event was parked with an earlier batch.
	blocked map[string]int64
	letters []deadletters.Letter
}

// decode returns the events that the projection wants, decoded. It parks an event that
// cannot be decoded, and an event of a type that this build does not know: a newer build
// may have written it, and skipping it would lose it.
func (b *bisection) decode(fresh []events.Envelope) []Event {
	ready := make([]Event, 0, len(fresh))
	for i := range fresh {
		e := &fresh[i]
		if !b.projection.wants(e.Type) && events.Known(e.Type) {
			continue
		}
		if b.parkIfBlocked(e) {
			continue
		}
		payload, err := e.Decode()
		if err != nil {
			b.park(e, err)
			continue
		}
		ready = append(ready, Event{Envelope: e, Payload: payload})
	}
	return ready
}

// apply applies events in order. If they fail for good, it applies the first half and
// then the second half; a single event that fails for good is parked. It returns
// transient errors.
func (b *bisection) apply(list []Event) error {
	ready := make([]Event, 0, len(list))
	for _, e := range list {
		if !b.parkIfBlocked(e.Envelope) {
			ready = append(ready, e)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	err := b.try(ready)
	switch {
	case err == nil:
		return nil
	case !permanent(err):
		return err
	case len(ready) == 1:
		b.park(ready[0].Envelope, err)
		return nil
	}
	middle := len(ready) / 2
	if err := b.apply(ready[:middle]); err != nil {
		return err
	}
	return b.apply(ready[middle:])
}

// parkIfBlocked parks an event that follows a parked event of its sequence key, and
// reports whether it did.
func (b *bisection) parkIfBlocked(e *events.Envelope) bool {
	key := b.projection.Key(e)
	first, blocked := b.blocked[key]
	if key == "" || !blocked || e.Seq <= first {
		return false
	}
	b.park(e, errors.New("waits behind an earlier event of "+key))
	return true
}

// park adds the dead letter of an event, and blocks its sequence key.
func (b *bisection) park(e *events.Envelope, cause error) {
	key := b.projection.Key(e)
	if first, blocked := b.blocked[key]; key != "" && (!blocked || e.Seq < first) {
		b.blocked[key] = e.Seq
	}
	letter := deadletters.Letter{
		Source:      b.projection.Name,
		MessageKey:  e.EventID.String(),
		SequenceKey: key,
		Pool:        e.Pool,
		Seq:         e.Seq,
		EventType:   e.Type,
		Raw:         e.Payload,
		Metadata:    map[string]string{"event_metadata": string(e.Metadata)},
		Error:       cause.Error(),
	}
	if panicked := new(panicError); errors.As(cause, &panicked) {
		letter.Stack = panicked.stack
	}
	b.letters = append(b.letters, letter)
}
