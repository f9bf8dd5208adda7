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

// CompareStream compares the events on the stream, up to a seq, with the journal's events
// of the same seqs. It fails with ErrFork at the first one that differs. Otherwise it
// returns the stream id of the last entry compared, or "" if there was none.
func CompareStream(
	ctx context.Context, client redis.Cmdable, db postgres.Querier, pool events.Pool, upTo int64,
) (last string, err error) {
	err = stream.Pages(ctx, client, pool, func(page []events.Entry) error {
		var compared []events.Envelope
		streamIDs := map[eventKey]string{}
		for _, entry := range page {
			seq := entry.Envelope.Seq
			if seq == 0 || seq > upTo {
				continue
			}
			compared = append(compared, entry.Envelope)
			streamIDs[eventKey{Seq: seq, EventID: entry.Envelope.EventID}] = entry.StreamID
			last = entry.StreamID
		}
		differing, err := differingEvents(ctx, db, pool.Name(), compared)
		if err == nil && len(differing) > 0 {
			err = forkError(pool, differing[0].Seq, streamIDs[differing[0]])
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return last, nil
}

// forkError returns an ErrFork that names the seq and the stream's entry.
func forkError(pool events.Pool, seq int64, streamID string) error {
	return fmt.Errorf("%w: seq %d is one event in the journal and another in the stream's entry %s; if no command wrote that entry, remove it with XDEL %s %s",
		ErrFork, seq, streamID, pool.StreamKey(), streamID)
}

// eventKey identifies an event. Its seq alone does not, because after a fork two events
// have the same seq.
type eventKey struct {
	Seq     int64
	EventID uuid.UUID
}

// differingEvents returns those of the given events whose seq belongs to another event in
// the journal, in order of seq. Events that the journal does not have are not among them.
func differingEvents(
	ctx context.Context, db postgres.Querier, pool string, given []events.Envelope,
) ([]eventKey, error) {
	if len(given) == 0 {
		return nil, nil
	}
	seqs := make([]int64, len(given))
	ids := make([]uuid.UUID, len(given))
	for i, e := range given {
		seqs[i] = e.Seq
		ids[i] = e.EventID
	}
	const query = `
		SELECT seq, given.event_id FROM events JOIN unnest($2::bigint[], $3::uuid[]) AS given (seq, event_id) USING (seq)
		WHERE pool = $1 AND seq BETWEEN $4 AND $5 AND events.event_id <> given.event_id ORDER BY seq`
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

// Lacks returns those entries of the stream that count in a pool's sequence and whose
// event the journal does not have.
func Lacks(
	ctx context.Context, db postgres.Querier, pool string, entries []events.Entry,
) ([]events.Entry, error) {
	var seqs []int64
	for _, entry := range entries {
		seqs = append(seqs, entry.Envelope.Seq)
	}
	rows, err := db.Query(ctx, `SELECT seq, event_id FROM events WHERE pool = $1 AND seq = ANY ($2)`, pool, seqs)
	if err != nil {
		return nil, fmt.Errorf("compare entries with the journal: %w", err)
	}
	journaled := map[eventKey]bool{}
	var key eventKey
	_, err = pgx.ForEachRow(rows, []any{&key.Seq, &key.EventID}, func() error {
		journaled[key] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("compare entries with the journal: %w", err)
	}
	var lacking []events.Entry
	for _, entry := range entries {
		e := entry.Envelope
		if e.Seq > 0 && !journaled[eventKey{Seq: e.Seq, EventID: e.EventID}] {
			lacking = append(lacking, entry)
		}
	}
	return lacking, nil
}
