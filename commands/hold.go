package commands

import (
	"context"
	"errors"
	"strconv"

	"github.com/stockstream/stockstream/events"
)

// hold has the fields of a hold in Redis from which Confirm and Cancel build their event.
// Except for the status, they never change. All are empty if the hold is unknown, or if
// Redis was emptied. The script answers UNKNOWN_HOLD in the first case, and NOT_READY in
// the second.
type hold struct {
	sku    string
	qty    int64
	userID string
	status events.HoldStatus
}

// replayed reports whether the answer to a Confirm or Cancel of this hold, as it was read
// before, is that of an earlier request. If the hold was active then, and a try of this
// request may have ended it without an answer, the answer is its own.
func (h hold) replayed(a answer) bool {
	return a.status == statusReplayed && (h.status != events.StatusActive || !a.repeated)
}

// readHold reads a hold from Redis. It fails only if Redis does.
func (s *Service) readHold(ctx context.Context, holdID string) (hold, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	key := s.pool.HoldKey(holdID)
	fields, err := s.reads.hashFields(ctx, key, "sku", "qty", "user_id", "state")
	if err != nil {
		return hold{}, s.readError(err, key)
	}
	qty, _ := strconv.ParseInt(fields[1], 10, 64)
	return hold{
		sku:    fields[0],
		qty:    qty,
		userID: fields[2],
		status: events.HoldStatus(fields[3]),
	}, nil
}

// onHold reads a hold, builds the event and the decision from it, and has the script
// decide. If the script finds another hold than the one read, the hold was made between
// the two steps, and onHold tries a second time.
func (s *Service) onHold(
	ctx context.Context, holdID string, build func(hold) (events.Event, *decision),
) (hold, *decision, error) {
	if !s.gate.IsOpen() {
		return hold{}, nil, withOutcome(ErrNotReady, outcomeNone)
	}
	eventID := events.NewID()
	for attempt := 1; ; attempt++ {
		h, err := s.readHold(ctx, holdID)
		if err != nil {
			return hold{}, nil, withOutcome(err, outcomeNone)
		}
		event, d := build(h)
		err = s.decide(ctx, eventID, event, d)
		if errors.Is(err, errHoldChanged) && attempt == 1 {
			continue
		}
		return h, d, err
	}
}
