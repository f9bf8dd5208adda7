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

// park is the middleware that keeps one bad event from stopping the line. It decodes the events that the projection
// wants and hands them on. When applying them fails for good, it bisects the batch down to the event that is to
// blame, and parks it as a dead letter, along with every later event of the same sequence key; the rest goes on.
func park(p Projection, log *slog.Logger) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			ctx, w := msg.Context(), workOf(msg)
			blocked, err := deadletters.ParkedKeys(ctx, w.tx, p.Name, w.pool)
			if err != nil {
				return nil, err
			}
			s := &sorter{projection: p, blocked: map[string]int64{}, apply: func(ready []Event) error {
				return applyOnce(ctx, msg, next, w.tx, ready)
			}}
			for key := range blocked {
				s.blocked[key] = 0
			}
			if err := s.process(s.decode(w.fresh)); err != nil {
				return nil, err
			}
			if len(s.letters) == 0 {
				return nil, nil
			}
			sort.Slice(s.letters, func(i, j int) bool { return s.letters[i].Seq < s.letters[j].Seq })
			log.Error("events parked as dead letters", "count", len(s.letters), "first_seq", s.letters[0].Seq, "error", s.letters[0].Error)
			return nil, deadletters.Park(ctx, w.tx, s.letters...)
		}
	}
}

// applyOnce hands events to the handler within a savepoint, so that a failure takes back no more than their writes.
func applyOnce(ctx context.Context, msg *message.Message, next message.HandlerFunc, tx pgx.Tx, ready []Event) error {
	return pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = &panicError{value: value, stack: string(debug.Stack())}
			}
		}()
		withWork(msg, &work{tx: savepoint, ready: ready})
		_, err = next(msg)
		return err
	})
}

type panicError struct {
	value any
	stack string
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// sorter takes a batch apart into what can be applied and what must be parked.
type sorter struct {
	projection Projection
	apply      func([]Event) error
	blocked    map[string]int64 // sequence keys with a parked event, and the seq of the first in this batch, or 0
	letters    []deadletters.Letter
}

// decode returns the events that the projection wants. One of a type that this version does not know is parked: a
// newer version may have written it, and skipping it would lose it without a word.
func (s *sorter) decode(fresh []events.Envelope) []Event {
	ready := make([]Event, 0, len(fresh))
	for i := range fresh {
		e := &fresh[i]
		if !s.projection.wants(e.Type) && events.Known(e.Type) {
			continue
		}
		payload, err := e.Decode()
		if err != nil {
			if !s.waits(e) {
				s.park(e, err)
			}
			continue
		}
		if !s.waits(e) {
			ready = append(ready, Event{Envelope: e, Payload: payload})
		}
	}
	return ready
}

// process applies events; of a part that fails for good it applies the halves, in order.
func (s *sorter) process(part []Event) error {
	ready := make([]Event, 0, len(part))
	for _, e := range part {
		if !s.waits(e.Envelope) {
			ready = append(ready, e)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	err := s.apply(ready)
	switch {
	case err == nil:
		return nil
	case !permanent(err):
		return err
	case len(ready) == 1:
		s.park(ready[0].Envelope, err)
		return nil
	}
	middle := len(ready) / 2
	if err := s.process(ready[:middle]); err != nil {
		return err
	}
	return s.process(ready[middle:])
}

// waits parks an event that comes behind a parked one of its sequence key, and reports whether it did.
func (s *sorter) waits(e *events.Envelope) bool {
	key := s.projection.Key(e)
	first, blocked := s.blocked[key]
	if key == "" || !blocked || e.Seq <= first {
		return false
	}
	s.park(e, errors.New("waits behind an earlier event of "+key))
	return true
}

func (s *sorter) park(e *events.Envelope, cause error) {
	key := s.projection.Key(e)
	if first, blocked := s.blocked[key]; key != "" && (!blocked || e.Seq < first) {
		s.blocked[key] = e.Seq
	}
	letter := deadletters.Letter{
		Source: s.projection.Name, MessageKey: e.EventID.String(), SequenceKey: key, Pool: e.Pool, Seq: e.Seq,
		EventType: e.Type, Raw: e.Payload, Metadata: map[string]string{"event_metadata": string(e.Metadata)}, Error: cause.Error(),
	}
	if panicked := new(panicError); errors.As(cause, &panicked) {
		letter.Stack = panicked.stack
	}
	s.letters = append(s.letters, letter)
}
