package deadletters

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// Filter selects the letters to list. A field with its zero value selects all letters.
type Filter struct {
	Source string
	Status Status
	After  int64 // only letters with a higher id; for the next page, pass the last id of this one
	Limit  int   // at most this many letters; 100 if zero
}

// List returns the letters that match the filter, in the order in which they were first
// parked.
func List(ctx context.Context, db postgres.Querier, filter Filter) ([]Letter, error) {
	if filter.Limit <= 0 {
		filter.Limit = 100
	}
	const query = `
		SELECT id, source, message_key, sequence_key, pool, coalesce(seq, 0), event_type, raw, metadata, error, stack,
		       attempts, first_failed_at, last_failed_at, status
		FROM dead_letters
		WHERE ($1 = '' OR source = $1) AND ($2 = '' OR status = $2) AND id > $3
		ORDER BY id LIMIT $4`
	rows, err := db.Query(ctx, query, filter.Source, string(filter.Status), filter.After, filter.Limit)
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	letters, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Letter, err error) {
		var metadata []byte
		err = row.Scan(
			&l.ID,
			&l.Source,
			&l.MessageKey,
			&l.SequenceKey,
			&l.Pool,
			&l.Seq,
			&l.EventType,
			&l.Raw,
			&metadata,
			&l.Error,
			&l.Stack,
			&l.Attempts,
			&l.FirstFailed,
			&l.LastFailed,
			&l.Status,
		)
		if err != nil {
			return l, err
		}
		return l, json.Unmarshal(metadata, &l.Metadata)
	})
	if err != nil {
		return nil, fmt.Errorf("list dead letters: %w", err)
	}
	return letters, nil
}
