package journal

import (
	"context"
	"fmt"

	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/postgres"
)

// comparePage is how many entries of the stream are compared in one step.
const comparePage = 1000

// CompareStream compares every event that the stream holds, up to a seq, with the journal's of the same seq. It returns
// the id of the last entry that was compared, "" for none, and fails with ErrFork at the first that differs.
func CompareStream(ctx context.Context, client redis.Cmdable, db postgres.Querier, pool events.Pool, upTo int64) (last string, err error) {
	for from := "-"; ; {
		found, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", comparePage).Result()
		if err != nil {
			return "", fmt.Errorf("read the stream: %w", err)
		}
		if len(found) == 0 {
			return last, nil
		}
		var compared []events.Envelope
		ids := map[eventKey]string{}
		for _, entry := range stream.ParseEntries(pool, found) {
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

// forkError is ErrFork for a seq and an entry of the stream.
func forkError(pool events.Pool, seq int64, streamID string) error {
	return fmt.Errorf("%w: seq %d is one event in the journal and another in the stream's entry %s; if no command wrote that, XDEL %s %s removes it",
		ErrFork, seq, streamID, pool.StreamKey(), streamID)
}

// eventKey says which event has a seq.
type eventKey struct {
	Seq     int64
	EventID uuid.UUID
}

// differingEvents returns those of some events whose seq is another event in the journal, in order.
func differingEvents(ctx context.Context, db postgres.Querier, pool string, found []events.Envelope) ([]eventKey, error) {
	if len(found) == 0 {
		return nil, nil
	}
	seqs, ids := make([]int64, len(found)), make([]uuid.UUID, len(found))
	for i, e := range found {
		seqs[i], ids[i] = e.Seq, e.EventID
	}
	const query = `
		SELECT seq, found.event_id FROM events JOIN unnest($2::bigint[], $3::uuid[]) AS found (seq, event_id) USING (seq)
		WHERE pool = $1 AND seq BETWEEN $4 AND $5 AND events.event_id <> found.event_id ORDER BY seq`
	rows, err := db.Query(ctx, query, pool, seqs, ids, slices.Min(seqs), slices.Max(seqs))
	if err != nil {
		return nil, fmt.Errorf("compare entries with the journal: %w", err)
	}
	differing, err := pgx.CollectRows(rows, pgx.RowToStructByPos[eventKey])
	if err != nil {
		return nil, fmt.Errorf("compare entries with the journal: %w", err)
	}
	return differing, nil
}
