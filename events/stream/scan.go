package stream

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// scanPage is how many entries of the stream are looked at in one step.
const scanPage = 1000

// Tail returns the highest seq at the end of a pool's stream, 0 where no entry carries one. The last entry may be one
// that no command wrote, with the seq of an old event.
func Tail(ctx context.Context, client redis.Cmdable, pool events.Pool) (seq int64, err error) {
	err = backwards(ctx, client, pool, scanPage, func(page []events.Entry) (more bool) {
		for _, entry := range page {
			seq = max(seq, entry.Envelope.Seq)
		}
		return seq == 0
	})
	return seq, err
}

// FindEntry looks for an event of the stream by its seq, from the stream's end on, among at most so many entries; 0 for
// no bound. Found is false where it is not among them.
func FindEntry(ctx context.Context, client redis.Cmdable, pool events.Pool, seq, most int64) (id uuid.UUID, found bool, err error) {
	looked := int64(0)
	err = backwards(ctx, client, pool, 64, func(page []events.Entry) (more bool) {
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
func backwards(ctx context.Context, client redis.Cmdable, pool events.Pool, pageMax int64, visit func([]events.Entry) (more bool)) error {
	for from := "+"; ; {
		found, err := client.XRevRangeN(ctx, pool.StreamKey(), from, "-", pageMax).Result()
		if err != nil {
			return fmt.Errorf("read the stream backwards: %w", err)
		}
		if len(found) == 0 || !visit(ParseEntries(pool, found)) {
			return nil
		}
		from, pageMax = "("+found[len(found)-1].ID, scanPage
	}
}

func ParseEntries(pool events.Pool, found []redis.XMessage) []events.Entry {
	entries := make([]events.Entry, len(found))
	for i, m := range found {
		entries[i] = events.ParseEntry(pool.Name(), m.ID, m.Values)
	}
	return entries
}
