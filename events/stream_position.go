package events

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/redis/go-redis/v9"
)

// cursor is a place on the stream: behind an entry.
type cursor struct {
	id    string // the entry's
	count int64  // how many were ever appended up to it, as Redis counts them; -1 where it cannot tell
}

// behind returns the place behind the entries that come next.
func (c cursor) behind(entries []Entry) cursor {
	c.id = entries[len(entries)-1].StreamID
	if c.count >= 0 {
		c.count += int64(len(entries))
	}
	return c
}

// position returns the place to read from. It is where the group stands, as long as the journal has every event up to
// there and nobody has read through the group. Otherwise (the journal has lost its last events, or somebody has moved the
// group) it is right before the last event that the journal has, or the stream's beginning where there is none.
func (s *StreamSubscriber) position(ctx context.Context, lease *Lease) (cursor, error) {
	ctx, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	client, pool := s.config.Redis, s.config.Pool
	journaled, err := ReadCheckpoint(ctx, lease.Conn, JournalCheckpoint, pool.Name())
	if err != nil {
		return cursor{}, err
	}
	wasRead, err := takeGroup(ctx, client, pool, s.config.Log)
	if err != nil {
		return cursor{}, err
	}
	stream, err := client.XInfoStream(ctx, pool.StreamKey()).Result()
	if err != nil {
		return cursor{}, fmt.Errorf("look at the stream: %w", err)
	}
	groups, err := client.XInfoGroups(ctx, pool.StreamKey()).Result()
	if err != nil {
		return cursor{}, fmt.Errorf("look at the groups of the stream: %w", err)
	}
	at, err := groupPlace(stream, groups)
	if err != nil {
		return cursor{}, err
	}
	last, all, err := s.lastJournaled(ctx, at.id, journaled)
	switch {
	case err != nil:
		return cursor{}, err
	case all && !wasRead:
		return at, nil
	case last != "":
		id, err := parseStreamID(last)
		if err != nil {
			return cursor{}, err
		}
		return cursor{id: id.previous().String(), count: -1}, nil // and that entry once more: it may be another event
	}
	return cursor{id: "0-0", count: stream.EntriesAdded - stream.Length}, nil
}

// groupPlace returns where the journal's group stands, which is never beyond the stream's end.
func groupPlace(stream *redis.XInfoStream, groups []redis.XInfoGroup) (cursor, error) {
	end := cursor{id: stream.LastGeneratedID, count: stream.EntriesAdded}
	for _, group := range groups {
		if group.Name != ConsumerGroup {
			continue
		}
		beyond, err := isBeyond(group.LastDeliveredID, end.id)
		switch {
		case err != nil:
			return cursor{}, err
		case beyond || group.LastDeliveredID == end.id:
			return end, nil
		case group.EntriesRead > 0 && group.Lag >= 0:
			return cursor{id: group.LastDeliveredID, count: group.EntriesRead}, nil
		}
		return cursor{id: group.LastDeliveredID, count: -1}, nil
	}
	return end, nil // somebody has removed it this moment; moving it will fail
}

// lastJournaled looks back from an entry for the last event that the journal has; it is "" where there is none. It also
// reports whether the journal has all events up to the entry.
func (s *StreamSubscriber) lastJournaled(ctx context.Context, upTo string, journaled int64) (id string, all bool, err error) {
	log, err := ReadLog(ctx, s.config.Redis, s.config.Pool)
	if err != nil {
		return "", false, err
	}
	end := log.Seq
	if !log.Exists {
		end = math.MaxInt64 // whatever carries a seq may be an event
	}
	// What no command wrote may carry the seq of an old event, with later events before it: a page tells together.
	all = true
	for count := int64(100); ; count = min(1000, 10*count) {
		entries, err := s.config.Redis.XRevRangeN(ctx, s.config.Pool.StreamKey(), upTo, "-", count).Result()
		if err != nil {
			return "", false, fmt.Errorf("look at the stream: %w", err)
		}
		for _, entry := range entries {
			switch seq := EntrySeq(entry.Values); {
			case seq == 0 || seq > end: // no event
			case seq > journaled:
				id, all = "", false
			case id == "":
				id = entry.ID
			}
		}
		if id != "" || int64(len(entries)) < count {
			return id, all, nil
		}
		upTo = "(" + entries[len(entries)-1].ID
	}
}

// lookAgain returns the place that is read from with what Redis says of it now. It fails where the stream is gone, or ends
// before that place: a Redis that was emptied, or came back older than it was, may append what would never be read.
func (s *StreamSubscriber) lookAgain(ctx context.Context, at cursor) (cursor, error) {
	stream, err := s.config.Redis.XInfoStream(ctx, s.config.Pool.StreamKey()).Result()
	if err != nil {
		return at, fmt.Errorf("look at the stream: %w", err)
	}
	beyond, err := isBeyond(at.id, stream.LastGeneratedID)
	switch {
	case err != nil:
		return at, err
	case beyond:
		return at, fmt.Errorf("the stream ends at %s, before %s, from where it is read", stream.LastGeneratedID, at.id)
	case at.id == stream.LastGeneratedID:
		at.count = stream.EntriesAdded
	}
	return at, nil
}

// isBeyond reports whether one id comes after another.
func isBeyond(id, other string) (bool, error) {
	a, err := parseStreamID(id)
	if err != nil {
		return false, err
	}
	b, err := parseStreamID(other)
	if err != nil {
		return false, err
	}
	return b.less(a), nil
}

// acknowledge moves the group. It goes on when the intake has just been stopped: the batch is in the journal, and saying
// so saves the next runner the repeat.
func (s *StreamSubscriber) acknowledge(ctx context.Context, end cursor) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	words := []any{"XGROUP", "SETID", s.config.Pool.StreamKey(), ConsumerGroup, end.id}
	if end.count >= 0 {
		words = append(words, "ENTRIESREAD", end.count)
	}
	if err := s.config.Redis.Do(ctx, words...).Err(); err != nil {
		return fmt.Errorf("move group %s: %w", ConsumerGroup, err)
	}
	return nil
}
