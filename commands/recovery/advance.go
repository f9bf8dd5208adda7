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

// A Redis that is behind the journal by a few events is advanced: only these events are
// folded, onto the stock and the holds that they change, and only the keys that differ
// are written. So a failover to a replica that lags takes as long as its lag, and not as
// the whole journal. Redis's older keys are taken as they are; if they do not fit the
// events, all keys are restored from the whole journal instead.
const (
	advanceMax = 100_000   // events
	advanceAge = time.Hour // of the oldest event; well below the time for which Redis keeps ended holds
)

// errCannotAdvance is returned if Redis's keys do not fit the events that follow.
var errCannotAdvance = errors.New("Redis's keys do not fit the journal's next events")

// foldAhead replaces the restorer's state by the part that the journal's last events
// change, as it is after them, and sets isAhead. If Redis must be restored completely, it
// changes nothing.
func (r *restorer) foldAhead(ctx context.Context, c comparison) error {
	lag := c.journal.Journaled - c.head.Seq
	if !c.head.Exists || c.isDiscarded() || c.head.Seq == 0 || lag > advanceMax {
		return nil
	}
	// verify has compared this entry with the journal's event, and so all before it.
	_, found, err := stream.FindEntry(ctx, r.redis, r.pool, c.head.Seq, 0)
	if err != nil || !found {
		return err
	}
	page, err := journal.ReadEvents(ctx, r.lease.Conn, r.pool.Name(), c.head.Seq, int(lag))
	if err != nil {
		return err
	}
	if int64(len(page)) != lag || r.state.nowMs-page[0].At.UnixMilli() > advanceAge.Milliseconds() {
		return nil
	}
	ahead := newState(r.state.nowMs, time.Duration(r.state.keepMs)*time.Millisecond)
	ahead.seq = c.head.Seq
	err = r.readBase(ctx, ahead, page)
	if err == nil {
		err = ahead.add(page)
	}
	if err == nil {
		err = ahead.check()
	}
	switch {
	case errors.Is(err, errCannotAdvance), errors.Is(err, ErrJournalUnsound), errors.Is(err, ErrJournalIncomplete):
		r.log.Warn("Redis is restored from the whole journal", "pool", r.pool.Name(), "reason", err)
		return nil
	case err != nil:
		return err
	}
	r.state = ahead
	r.isAhead = true
	return nil
}

// readBase adds to a state the stock of every SKU, as the log head records it, and the
// holds that the events end. It fails with errCannotAdvance if Redis's holds are not as
// they were before the events.
func (r *restorer) readBase(ctx context.Context, s *state, page []events.Envelope) error {
	fields, err := r.redis.HGetAll(ctx, r.pool.MetaKey()).Result()
	if err != nil {
		return fmt.Errorf("read the recorded stock: %w", err)
	}
	for field, value := range fields {
		if sku, isStock := strings.CutPrefix(field, "stock:"); isStock {
			if s.stock[sku], err = strconv.ParseInt(value, 10, 64); err != nil {
				return fmt.Errorf("%w: field %s of the log head is %q", errCannotAdvance, field, value)
			}
		}
	}
	made := map[string]bool{} // whether the events make the hold, by id
	for i := range page {
		event, err := page[i].Decode()
		if err != nil {
			continue // skipped by the fold, too
		}
		switch event := event.(type) {
		case *events.HoldCreated:
			made[event.HoldID] = true
		case *events.HoldConfirmed:
			made[event.HoldID] = made[event.HoldID] // adds the id, if it is not there yet
		case *events.HoldCancelled:
			made[event.HoldID] = made[event.HoldID]
		}
	}
	for some := range slices.Chunk(slices.Collect(maps.Keys(made)), redisReadBatch) {
		if err := r.readBaseHolds(ctx, s, some, made); err != nil {
			return err
		}
	}
	return nil
}

// readBaseHolds reads holds. Those that the events make must be missing, and the others
// active.
func (r *restorer) readBaseHolds(ctx context.Context, s *state, ids []string, made map[string]bool) error {
	found := map[string]*redis.SliceCmd{}
	_, err := r.redis.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, id := range ids {
			found[id] = pipe.HMGet(ctx, r.pool.HoldKey(id), holdFields[:]...)
		}
		return nil
	})
	if err := pipelineError(err); err != nil {
		return fmt.Errorf("read holds: %w", err)
	}
	for id, fields := range found {
		if err := keyError(fields.Err()); err != nil {
			return fmt.Errorf("read holds: %w", err)
		}
		missing := fields.Err() == nil && !slices.ContainsFunc(fields.Val(), func(v any) bool { return v != nil })
		if made[id] && missing {
			continue
		}
		h, valid := redisHold{}, false
		if fields.Err() == nil {
			h, valid = parseHold(fields.Val())
		}
		if made[id] || !valid || h.state != events.StatusActive {
			return fmt.Errorf("%w: hold %s", errCannotAdvance, id)
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
	}
	return nil
}
