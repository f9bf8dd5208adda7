package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Lag is the distance of a projection behind the journal.
type Lag struct {
	Projection string
	Checkpoint int64         // seq of the last event applied
	Events     int64         // number of journaled events that are not applied yet
	Age        time.Duration // age of the oldest of them; 0 if there are none
}

// ReadLag returns the lag of each projection of list in a pool, in the order of list.
func ReadLag(ctx context.Context, db postgres.Querier, pool string, list ...Projection) ([]Lag, error) {
	const query = `
		SELECT name, coalesce(c.seq, 0), greatest(coalesce(j.seq, 0) - coalesce(c.seq, 0), 0),
		       coalesce((SELECT extract(epoch FROM now() - at) FROM events WHERE pool = $1 AND seq = coalesce(c.seq, 0) + 1), 0)::float8
		FROM unnest($2::text[]) WITH ORDINALITY AS n (name, nr)
		LEFT JOIN checkpoints c ON c.pool = $1 AND c.projection = name
		LEFT JOIN checkpoints j ON j.pool = $1 AND j.projection = $3
		ORDER BY nr`
	rows, err := db.Query(ctx, query, pool, Names(list), journal.CheckpointName)
	if err != nil {
		return nil, fmt.Errorf("read lag: %w", err)
	}
	lags, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l Lag, err error) {
		var ageSeconds float64
		err = row.Scan(&l.Projection, &l.Checkpoint, &l.Events, &ageSeconds)
		l.Age = max(0, time.Duration(ageSeconds*float64(time.Second)))
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("read lag: %w", err)
	}
	return lags, nil
}
