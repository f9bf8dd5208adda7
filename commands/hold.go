package commands

import (
	"context"
	"errors"
	"strconv"

	"github.com/stockstream/stockstream/events"
)

// hold is what Confirm and Cancel read before they build their event: what of a hold never changes. All is empty for
// an unknown one; the script says whether that is so, or whether Redis is not ready.
type hold struct {
	sku    string
	qty    int64
	userID string
	status HoldStatus
}

func (s *Service) readHold(ctx context.Context, holdID string) (hold, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	key := s.pool.HoldKey(holdID)
	fields, err := s.reads.hashFields(ctx, key, "sku", "qty", "user_id", "state")
	if err != nil {
		return hold{}, s.readError(err, key)
	}
	qty, _ := strconv.ParseInt(fields[1], 10, 64)
	return hold{sku: fields[0], qty: qty, userID: fields[2], status: HoldStatus(fields[3])}, nil
}

// onHold builds a decision on a hold and takes it; once more when the hold was not what had been read, which takes a
// hold that came into being in between.
func (s *Service) onHold(ctx context.Context, holdID string, build func(hold) (events.Event, *decision)) (hold, *decision, error) {
	if !s.gate.IsOpen() {
		return hold{}, nil, ErrNotReady
	}
	eventID := events.NewID()
	for attempt := 1; ; attempt++ {
		h, err := s.readHold(ctx, holdID)
		if err != nil {
			return hold{}, nil, err
		}
		event, d := build(h)
		err = s.decide(ctx, eventID, event, d)
		if errors.Is(err, errHoldChanged) && attempt == 1 {
			continue
		}
		return h, d, err
	}
}
