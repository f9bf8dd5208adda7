package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Reader reads one pool's stream in order, on behalf of the journal. It does not read
// through the consumer group: Redis would then record each entry twice more, as delivered
// and as acknowledged. Instead it moves the group's last-delivered id to the last entry
// that the journal has, so that operators see the journal's lag, and a trim keeps the
// entries that the journal lacks.
//
// The caller closes the client.
type Reader struct {
	Redis    redis.UniversalClient
	Pool     events.Pool
	BatchMax int // entries in one batch
	Log      *slog.Logger
}

// readBlock is how long a read waits for an entry, and therefore how late a stop is
// noticed.
const readBlock = 500 * time.Millisecond

// acknowledgeTimeout bounds the call that moves the consumer group.
const acknowledgeTimeout = 5 * time.Second

// Offset is a position on the stream, directly after one entry.
type Offset struct {
	ID string // the entry's stream id
	// EntriesRead counts the entries ever appended up to this one, as Redis counts them
	// for a group's lag; -1 if it is unknown.
	EntriesRead int64
}

// After returns the offset after a batch that begins at o.
func (o Offset) After(entries []events.Entry) Offset {
	o.ID = entries[len(entries)-1].StreamID
	if o.EntriesRead >= 0 {
		o.EntriesRead += int64(len(entries))
	}
	return o
}

// Start returns the offset to read from, given the seq at which the journal ends:
//
//   - the group's offset, if the journal has every event up to it and no one has read
//     through the group;
//   - otherwise (the journal lost its last events, or someone moved the group) the offset
//     directly before the last entry that the journal has;
//   - the beginning of the stream, if the journal has none of its entries.
func (r *Reader) Start(ctx context.Context, journaled int64) (Offset, error) {
	hadConsumers, err := r.claimGroup(ctx)
	if err != nil {
		return Offset{}, err
	}
	info, err := r.Redis.XInfoStream(ctx, r.Pool.StreamKey()).Result()
	if err != nil {
		return Offset{}, fmt.Errorf("read the stream's state: %w", err)
	}
	groups, err := r.Redis.XInfoGroups(ctx, r.Pool.StreamKey()).Result()
	if err != nil {
		return Offset{}, fmt.Errorf("read the stream's groups: %w", err)
	}
	offset, err := groupOffset(info, groups)
	if err != nil {
		return Offset{}, err
	}
	last, complete, err := r.lastJournaled(ctx, offset.ID, journaled)
	switch {
	case err != nil:
		return Offset{}, err
	case complete && !hadConsumers:
		return offset, nil
	case last != "":
		id, err := ParseID(last)
		if err != nil {
			return Offset{}, err
		}
		// The last journaled entry is read once more, because it may be another event
		// now.
		return Offset{ID: id.Previous().String(), EntriesRead: -1}, nil
	}
	return Offset{ID: "0-0", EntriesRead: info.EntriesAdded - info.Length}, nil
}

// groupOffset returns the offset of the journal's group, which is never past the stream's
// end.
func groupOffset(info *redis.XInfoStream, groups []redis.XInfoGroup) (Offset, error) {
	end := Offset{ID: info.LastGeneratedID, EntriesRead: info.EntriesAdded}
	for _, group := range groups {
		if group.Name != events.ConsumerGroup {
			continue
		}
		pastEnd, err := isAfter(group.LastDeliveredID, end.ID)
		switch {
		case err != nil:
			return Offset{}, err
		case pastEnd || group.LastDeliveredID == end.ID:
			return end, nil
		case group.EntriesRead > 0 && group.Lag >= 0:
			return Offset{ID: group.LastDeliveredID, EntriesRead: group.EntriesRead}, nil
		}
		return Offset{ID: group.LastDeliveredID, EntriesRead: -1}, nil
	}
	return end, nil // the group was removed this moment; moving it will fail
}

// lastJournaled scans backwards from an entry for the last one that the journal has, and
// returns its stream id, or "" if there is none. complete reports whether the journal has
// every event up to upTo.
func (r *Reader) lastJournaled(
	ctx context.Context, upTo string, journaled int64,
) (id string, complete bool, err error) {
	head, err := ReadHead(ctx, r.Redis, r.Pool)
	if err != nil {
		return "", false, err
	}
	end := head.Seq
	if !head.Exists {
		end = math.MaxInt64 // without a head, any entry with a seq may be an event
	}
	// A foreign entry may carry the seq of an old event and stand after later events. So
	// a whole page is looked at before the answer is given.
	complete = true
	for count := int64(100); ; count = min(1000, 10*count) {
		entries, err := r.Redis.XRevRangeN(ctx, r.Pool.StreamKey(), upTo, "-", count).Result()
		if err != nil {
			return "", false, fmt.Errorf("scan the stream backwards: %w", err)
		}
		for _, entry := range entries {
			switch seq := events.EntrySeq(entry.Values); {
			case seq == 0 || seq > end: // a foreign entry
			case seq > journaled:
				id = ""
				complete = false
			case id == "":
				id = entry.ID
			}
		}
		if id != "" || int64(len(entries)) < count {
			return id, complete, nil
		}
		upTo = "(" + entries[len(entries)-1].ID
	}
}

// Fetch returns the entries after a stream id, at most BatchMax of them. It waits up to
// half a second for the first one and returns none if it does not come.
func (r *Reader) Fetch(ctx context.Context, after string) ([]events.Entry, error) {
	streams, err := r.Redis.XRead(ctx, &redis.XReadArgs{
		Streams: []string{r.Pool.StreamKey(), after},
		Count:   int64(r.BatchMax),
		Block:   readBlock,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	var entries []events.Entry
	for _, stream := range streams {
		entries = append(entries, ParseEntries(r.Pool, stream.Messages)...)
	}
	return entries, nil
}

// Recheck returns the offset with the count that Redis has for it now. It fails if the
// stream is gone or ends before the offset: a Redis that was emptied, or came back in an
// older state, appends entries before the offset, which would never be read.
func (r *Reader) Recheck(ctx context.Context, offset Offset) (Offset, error) {
	info, err := r.Redis.XInfoStream(ctx, r.Pool.StreamKey()).Result()
	if err != nil {
		return offset, fmt.Errorf("read the stream's state: %w", err)
	}
	pastEnd, err := isAfter(offset.ID, info.LastGeneratedID)
	switch {
	case err != nil:
		return offset, err
	case pastEnd:
		return offset, fmt.Errorf("the stream ends at %s, before the position %s it is read from",
			info.LastGeneratedID, offset.ID)
	case offset.ID == info.LastGeneratedID:
		offset.EntriesRead = info.EntriesAdded
	}
	return offset, nil
}

// Acknowledge moves the group to an offset. It does so even if ctx has ended: the batch
// is in the journal, and the next reader should not read it again.
func (r *Reader) Acknowledge(ctx context.Context, offset Offset) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), acknowledgeTimeout)
	defer cancel()
	words := []any{"XGROUP", "SETID", r.Pool.StreamKey(), events.ConsumerGroup, offset.ID}
	if offset.EntriesRead >= 0 {
		words = append(words, "ENTRIESREAD", offset.EntriesRead)
	}
	if err := r.Redis.Do(ctx, words...).Err(); err != nil {
		return fmt.Errorf("move group %s: %w", events.ConsumerGroup, err)
	}
	return nil
}
