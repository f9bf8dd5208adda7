package events

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// agreementPage is how many entries of the stream are looked at in one step.
const agreementPage = 1000

// StreamTail returns the highest seq at the end of a pool's stream, 0 where no entry carries one. The last entry may be one
// that no command wrote, with the seq of an old event.
func StreamTail(ctx context.Context, client redis.Cmdable, pool Pool) (seq int64, err error) {
	err = backwards(ctx, client, pool, agreementPage, func(page []Entry) (more bool) {
		for _, entry := range page {
			seq = max(seq, entry.Envelope.Seq)
		}
		return seq == 0
	})
	return seq, err
}

// FindEntry looks for an event of the stream by its seq, from the stream's end on, among at most so many entries; 0 for
// no bound. Found is false where it is not among them.
func FindEntry(ctx context.Context, client redis.Cmdable, pool Pool, seq, most int64) (id uuid.UUID, found bool, err error) {
	looked := int64(0)
	err = backwards(ctx, client, pool, 64, func(page []Entry) (more bool) {
		later := false
		for _, entry := range page {
			if entry.Envelope.Seq == seq {
				id, found = entry.Envelope.EventID, true
				return false
			}
			later = later || entry.Envelope.Seq > seq || entry.Envelope.Seq == 0
		}
		looked += int64(len(page))
		return later && (most == 0 || looked < most)
	})
	return id, found, err
}

// backwards shows the stream's entries page by page, the last first, until there is no more or visit has enough.
func backwards(ctx context.Context, client redis.Cmdable, pool Pool, pageMax int64, visit func([]Entry) (more bool)) error {
	for from := "+"; ; {
		found, err := client.XRevRangeN(ctx, pool.StreamKey(), from, "-", pageMax).Result()
		if err != nil {
			return fmt.Errorf("read the stream backwards: %w", err)
		}
		if len(found) == 0 || !visit(parseEntries(pool, found)) {
			return nil
		}
		from, pageMax = "("+found[len(found)-1].ID, agreementPage
	}
}

// CompareStream compares every event that the stream holds, up to a seq, with the journal's of the same seq. It returns
// the id of the last entry that was compared, "" for none, and fails with ErrFork at the first that differs.
func CompareStream(ctx context.Context, client redis.Cmdable, db Querier, pool Pool, upTo int64) (last string, err error) {
	for from := "-"; ; {
		found, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", agreementPage).Result()
		if err != nil {
			return "", fmt.Errorf("read the stream: %w", err)
		}
		if len(found) == 0 {
			return last, nil
		}
		var compared []Envelope
		ids := map[eventKey]string{}
		for _, entry := range parseEntries(pool, found) {
			if seq := entry.Envelope.Seq; seq > 0 && seq <= upTo {
				compared = append(compared, entry.Envelope)
				ids[eventKey{seq, entry.Envelope.EventID}] = entry.StreamID
				last = entry.StreamID
			}
		}
		differing, err := differingEvents(ctx, db, pool.Name(), compared)
		switch {
		case err != nil:
			return "", err
		case len(differing) > 0:
			return "", forkError(pool, differing[0].Seq, ids[differing[0]])
		}
		from = "(" + found[len(found)-1].ID
	}
}

func parseEntries(pool Pool, found []redis.XMessage) []Entry {
	entries := make([]Entry, len(found))
	for i, m := range found {
		entries[i] = parseEntry(pool.Name(), m.ID, m.Values)
	}
	return entries
}
