package recovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
)

// A Redis that lacks only the journal's last events is advanced: these events are folded
// onto the recorded stock and the holds that Redis has. Stock is written for all SKUs;
// holds and idempotency keys only if the events change them. So a failover to a replica
// that lags does not take longer for a longer journal.
const (
	advanceMax = 100_000   // events
	advanceAge = time.Hour // of an event; well below the time for which Redis keeps ended holds
)

// errCannotAdvance is returned if Redis's keys do not fit the events that it lacks. Redis
// is then restored from the whole journal.
var errCannotAdvance = errors.New("Redis's keys do not fit the events that it lacks")

// mayAdvance reports whether Redis lacks few events, and has the log up to them: its
// stream ends with the event at which the log ends, and the journal has the same event.
func (r *restorer) mayAdvance(ctx context.Context, c comparison) (bool, error) {
	lag := c.journal.Journaled - c.head.Seq
	if !c.head.Exists || c.isDiscarded() || c.head.Seq == 0 || lag <= 0 || lag > advanceMax {
		return false, nil
	}
	tail, err := stream.Tail(ctx, r.redis, r.pool)
	if err != nil || tail != c.head.Seq {
		return false, err
	}
	const near = 1000 // entries; foreign ones may follow
	id, found, err := stream.FindEntry(ctx, r.redis, r.pool, c.head.Seq, near)
	if err != nil || !found {
		return false, err
	}
	last, err := journal.ReadEvents(ctx, r.lease.Conn, r.pool.Name(), c.head.Seq-1, 1)
	if err != nil || len(last) == 0 {
		return false, err
	}
	return last[0].Seq == c.head.Seq && last[0].EventID == id, nil
}

// foldMissing folds the events that Redis lacks onto the stock and the holds that it has,
// after the log was closed and this restorer took the right to write. It fails with
// errCannotAdvance, and then leaves the state without events.
func (r *restorer) foldMissing(ctx context.Context, c comparison) error {
	s := newState(r.state.nowMs, time.Duration(r.state.keepMs)*time.Millisecond)
	s.seq = c.head.Seq
	if err := r.readRecordedStock(ctx, s, c.head); err != nil {
		return err
	}
	for s.seq < c.journal.Journaled {
		limit := min(readPage, c.journal.Journaled-s.seq)
		page, err := journal.ReadEvents(ctx, r.lease.Conn, r.pool.Name(), s.seq, int(limit))
		if err != nil {
			return err
		}
		if int64(len(page)) != limit {
			return fmt.Errorf("%w: the journal lacks one of them", errCannotAdvance)
		}
		if err := r.readHoldsBefore(ctx, s, page); err != nil {
			return err
		}
		err = s.add(page)
		if err == nil {
			err = s.check()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errCannotAdvance, err)
		}
		r.report(RestoreProgress{Step: StepFold, Done: s.seq, Total: c.journal.Journaled})
	}
	r.state = s
	return nil
}

// readRecordedStock adds the stock of every SKU to a state, as the closed log head
// records it. It fails with errChanged if that is not the head that was compared.
func (r *restorer) readRecordedStock(ctx context.Context, s *state, head stream.Head) error {
	fields, err := r.redis.HGetAll(ctx, r.pool.ClosedMetaKey()).Result()
	if err != nil {
		return fmt.Errorf("read the recorded stock: %w", err)
	}
	epoch := strconv.FormatInt(head.Epoch, 10)
	seq := strconv.FormatInt(head.Seq, 10)
	if fields["epoch"] != epoch || fields["seq"] != seq {
		return errChanged
	}
	for field, value := range fields {
		if sku, isStock := strings.CutPrefix(field, "stock:"); isStock {
			if s.stock[sku], err = strconv.ParseInt(value, 10, 64); err != nil {
				return fmt.Errorf("%w: field %s of the log head is %q", errCannotAdvance, field, value)
			}
		}
	}
	return nil
}

// touched are the keys that events create or change.
type touched struct {
	made  map[string]bool // holds that the events create
	ended map[string]bool // holds that the events end
	keys  []string        // idempotency keys
}

// touchedBy returns the keys that events create or change. It fails with errCannotAdvance
// for an old event: Redis may have removed its keys.
func touchedBy(page []events.Envelope, nowMs int64) (touched, error) {
	t := touched{made: map[string]bool{}, ended: map[string]bool{}}
	for i := range page {
		if nowMs-page[i].At.UnixMilli() > advanceAge.Milliseconds() {
			return t, fmt.Errorf("%w: seq %d is from %s", errCannotAdvance, page[i].Seq, page[i].At)
		}
		event, err := page[i].Decode()
		if err != nil {
			continue // the fold skips it, or fails
		}
		switch event := event.(type) {
		case *events.StockAdjusted:
			t.keys = append(t.keys, event.IdempotencyKey)
		case *events.HoldCreated:
			t.made[event.HoldID] = true
			t.keys = append(t.keys, event.IdempotencyKey)
		case *events.HoldConfirmed:
			t.ended[event.HoldID] = true
		case *events.HoldCancelled:
			t.ended[event.HoldID] = true
		}
	}
	return t, nil
}

// readHoldsBefore adds to a state the holds that the next events end. It fails with
// errCannotAdvance if Redis's keys are not as they were before these events: a hold that
// ends must be active, and a hold or an idempotency key that is created must be missing.
func (r *restorer) readHoldsBefore(ctx context.Context, s *state, page []events.Envelope) error {
	t, err := touchedBy(page, s.nowMs)
	if err != nil {
		return err
	}
	holds := map[string]*redis.SliceCmd{}
	values := map[string]*redis.StringCmd{}
	_, err = r.redis.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for id := range t.ended {
			if s.holds[id] == nil && !t.made[id] {
				holds[id] = pipe.HMGet(ctx, r.pool.HoldKey(id), holdFields[:]...)
			}
		}
		for id := range t.made {
			holds[id] = pipe.HMGet(ctx, r.pool.HoldKey(id), holdFields[:]...)
		}
		for _, key := range t.keys {
			values[key] = pipe.Get(ctx, r.pool.IdempotencyKey(key))
		}
		return nil
	})
	if err := pipelineError(err); err != nil {
		return fmt.Errorf("read the holds before the missing events: %w", err)
	}
	for key, value := range values {
		if !errors.Is(value.Err(), redis.Nil) {
			if err := keyError(value.Err()); err != nil {
				return fmt.Errorf("read idempotency keys: %w", err)
			}
			return fmt.Errorf("%w: idempotency key %s exists", errCannotAdvance, key)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(holds)) {
		if err := s.addHoldBefore(id, holds[id], t.made[id]); err != nil {
			return err
		}
	}
	return nil
}

// addHoldBefore adds a hold to a state, as Redis has it before the next events. A hold
// that these create must be missing.
func (s *state) addHoldBefore(id string, found *redis.SliceCmd, made bool) error {
	if err := keyError(found.Err()); err != nil {
		return fmt.Errorf("read hold %s: %w", id, err)
	}
	missing := found.Err() == nil && !slices.ContainsFunc(found.Val(), func(v any) bool { return v != nil })
	if made && missing {
		return nil
	}
	if made || missing || found.Err() != nil {
		return fmt.Errorf("%w: hold %s", errCannotAdvance, id)
	}
	h, valid := parseHold(found.Val())
	if !valid || h.state != events.StatusActive {
		return fmt.Errorf("%w: hold %s is not active", errCannotAdvance, id)
	}
	s.holds[id] = &foldedHold{
		created: &events.HoldCreated{
			HoldID: id,
			SKU:    h.sku,
			Qty:    h.qty,
			UserID: h.userID,
		},
		expiresAt: h.expiresAt,
		state:     events.StatusActive,
	}
	return nil
}
