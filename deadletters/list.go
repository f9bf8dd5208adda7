package deadletters

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// Filter narrows a listing; zero values do not.
type Filter struct {
	Source string
	Status Status
	After  int64 // letters with a higher id only: the last id of the page before
	Limit  int   // 100 unless set
}

// List returns letters in the order in which they were parked.
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
		err = row.Scan(&l.ID, &l.Source, &l.MessageKey, &l.SequenceKey, &l.Pool, &l.Seq, &l.EventType, &l.Raw, &metadata,
			&l.Error, &l.Stack, &l.Attempts, &l.FirstFailed, &l.LastFailed, &l.Status)
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
