package stream

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

const (
	scanFirstPage = 64    // entries in the first page of FindEntry, which usually suffices
	scanPage      = 1_000 // entries in each further page
)

// Tail returns the seq at the end of a pool's stream, or 0 if no entry has one. It takes
// the highest seq of the last page, because the last entry may be foreign and carry the
// seq of an old event.
func Tail(ctx context.Context, client redis.Cmdable, pool events.Pool) (seq int64, err error) {
	err = backwards(ctx, client, pool, scanPage, func(page []events.Entry) (more bool) {
		for _, entry := range page {
			seq = max(seq, entry.Envelope.Seq)
		}
		return seq == 0
	})
	return seq, err
}

// LastID returns the id of the last entry of a pool's stream, or "" if it has none.
func LastID(ctx context.Context, client redis.Cmdable, pool events.Pool) (string, error) {
	last, err := client.XRevRangeN(ctx, pool.StreamKey(), "+", "-", 1).Result()
	if err != nil || len(last) == 0 {
		return "", err
	}
	return last[0].ID, nil
}

// Gap is a range of events that a stream no longer has. The zero Gap has none.
type Gap struct{ First, Last int64 }

// FindGap returns events after one seq and up to the head of the log that the stream
// lacks at its beginning or at its end. It usually reads a few entries only, so it does
// not find a hole between two entries: that is found when the stream is read.
func FindGap(ctx context.Context, client redis.Cmdable, pool events.Pool, after, head int64) (Gap, error) {
	if after >= head {
		return Gap{}, nil
	}
	last, searched := int64(0), 0
	err := backwards(ctx, client, pool, scanFirstPage, func(page []events.Entry) (more bool) {
		for _, entry := range page {
			if entry.Envelope.Seq <= head { // a higher one is new, or a foreign entry's
				last = max(last, entry.Envelope.Seq)
			}
		}
		searched += len(page)
		// Foreign entries may have the seqs of old events.
		return last == 0 || last < head && searched < scanPage
	})
	if err != nil {
		return Gap{}, err
	}
	if last < head {
		return Gap{First: max(after, last) + 1, Last: head}, nil
	}
	entries, err := client.XRangeN(ctx, pool.StreamKey(), "-", "+", scanFirstPage).Result()
	if err != nil {
		return Gap{}, fmt.Errorf("read the beginning of the stream: %w", err)
	}
	first := head + 1
	for _, entry := range entries { // the lowest, because foreign entries may have the seqs of later events
		if seq := events.EntrySeq(entry.Values); seq > 0 {
			first = min(first, seq)
		}
	}
	if first <= head && first > after+1 {
		return Gap{First: after + 1, Last: first - 1}, nil
	}
	return Gap{}, nil
}

// FindEntry looks for the event with a seq, from the end of the stream backwards, and
// returns its id. It stops after about limit entries, or at the beginning of the stream
// if limit is 0.
func FindEntry(
	ctx context.Context, client redis.Cmdable, pool events.Pool, seq, limit int64,
) (id uuid.UUID, found bool, err error) {
	searched := int64(0)
	err = backwards(ctx, client, pool, scanFirstPage, func(page []events.Entry) (more bool) {
		onlyOlder := true // if so, the event cannot follow
		for _, entry := range page {
			if entry.Envelope.Seq == seq {
				id = entry.Envelope.EventID
				found = true
				return false
			}
			if entry.Envelope.Seq > seq || entry.Envelope.Seq == 0 {
				onlyOlder = false
			}
		}
		searched += int64(len(page))
		return !onlyOlder && (limit == 0 || searched < limit)
	})
	return id, found, err
}

// backwards calls visit with the entries of a stream, page by page and the last entry
// first, until visit returns false or the stream ends. The first page has pageMax
// entries.
func backwards(
	ctx context.Context,
	client redis.Cmdable,
	pool events.Pool,
	pageMax int64,
	visit func([]events.Entry) (more bool),
) error {
	from := "+"
	for {
		found, err := client.XRevRangeN(ctx, pool.StreamKey(), from, "-", pageMax).Result()
		if err != nil {
			return fmt.Errorf("read the stream backwards: %w", err)
		}
		if len(found) == 0 || !visit(ParseEntries(pool, found)) {
			return nil
		}
		from = "(" + found[len(found)-1].ID
		pageMax = scanPage
	}
}

// ParseEntries parses entries as go-redis returns them.
func ParseEntries(pool events.Pool, found []redis.XMessage) []events.Entry {
	entries := make([]events.Entry, len(found))
	for i, m := range found {
		entries[i] = events.ParseEntry(pool.Name(), m.ID, m.Values)
	}
	return entries
}

// Pages calls visit with the entries of a pool's stream, page by page and in order, until
// visit returns an error or the stream ends.
func Pages(
	ctx context.Context, client redis.Cmdable, pool events.Pool, visit func([]events.Entry) error,
) error {
	for from := "-"; ; {
		found, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", scanPage).Result()
		if err != nil {
			return fmt.Errorf("read the stream: %w", err)
		}
		if len(found) == 0 {
			return nil
		}
		if err := visit(ParseEntries(pool, found)); err != nil {
			return err
		}
		from = "(" + found[len(found)-1].ID
	}
}
