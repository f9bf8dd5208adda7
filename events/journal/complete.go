package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
)

// CheckComplete makes sure that the journal of a pool has what a replay after a seq is going to read: every event from
// there to the journal's end, and for after = 0 every event there ever was. It returns ErrDetached where a part was
// taken out, and ErrHole where events are missing otherwise. It is cheap, since it looks at the bounds of parts and at
// the events on them: a hole within a part is found by whoever reads it.
func CheckComplete(ctx context.Context, db postgres.Querier, pool string, after int64) error {
	end, err := worker.ReadCheckpoint(ctx, db, CheckpointName, pool)
	if err != nil || end <= after {
		return err
	}
	detached, err := DetachedPartitions(ctx, db)
	if err != nil {
		return err
	}
	var lacking []DetachedPartition
	for _, part := range detached {
		if part.Last > after && part.First <= end {
			lacking = append(lacking, part)
		}
	}
	if len(lacking) > 0 {
		return detachedError(lacking)
	}
	parts, err := Partitions(ctx, db)
	if err != nil {
		return err
	}
	bounds, err := boundsWithin(parts, after+1, end)
	if err != nil {
		return err
	}
	const query = `
		SELECT bound FROM unnest($2::bigint[]) AS bound
		WHERE (SELECT seq FROM events WHERE pool = $1 AND seq = bound) IS NULL ORDER BY bound LIMIT 1`
	var missing int64
	err = db.QueryRow(ctx, query, pool, bounds).Scan(&missing)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for holes in the journal: %w", err)
	}
	return fmt.Errorf("%w: the journal has no event %d", ErrHole, missing)
}

func detachedError(lacking []DetachedPartition) error {
	names := make([]string, len(lacking))
	attach := make([]string, len(lacking))
	for i, part := range lacking {
		names[i] = fmt.Sprintf("%s (events %d to %d)", part.Name, part.First, part.Last)
		attach[i] = "`stockstream journal attach " + part.Name + "`"
	}
	return fmt.Errorf("%w: %s; bring it back with %s, after restoring its dump where the table was dropped",
		ErrDetached, strings.Join(names, ", "), strings.Join(attach, ", "))
}

// boundsWithin returns the seqs at which the parts begin and end, from one seq to another, both included. It returns
// ErrHole where there is a gap between parts.
func boundsWithin(parts []Partition, from, to int64) ([]int64, error) {
	bounds := []int64{from, to}
	next := from
	for _, part := range parts {
		if part.Last < next || next > to {
			continue
		}
		if part.First > next {
			break
		}
		bounds = append(bounds, max(part.First, from), min(part.Last, to))
		next = part.Last + 1
	}
	if next <= to {
		return nil, fmt.Errorf("%w: the journal has no part for event %d", ErrHole, next)
	}
	return bounds, nil
}
