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

// CheckComplete checks that a pool's journal has every event after a seq, up to its end,
// before a replay starts there. It returns ErrDetached if partitions in that range are
// detached, and ErrHole if events are missing for another reason.
//
// The check is cheap: it looks at the bounds of the partitions and at the events on those
// bounds. A hole inside a partition is found later, when the replay reads it.
func CheckComplete(ctx context.Context, db postgres.Querier, pool string, after int64) error {
	end, err := worker.ReadCheckpoint(ctx, db, CheckpointName, pool)
	if err != nil || end <= after {
		return err
	}
	if err := checkNoneDetached(ctx, db, pool, after, end); err != nil {
		return err
	}
	attached, err := Partitions(ctx, db, pool)
	if err != nil {
		return err
	}
	bounds, err := boundsWithin(attached, after+1, end)
	if err != nil {
		return err
	}
	const query = `
		SELECT bound FROM unnest($2::bigint[]) AS bound
		WHERE (SELECT seq FROM events WHERE pool = $1 AND seq = bound) IS NULL ORDER BY bound LIMIT 1`
	var missing int64
	err = db.QueryRow(ctx, query, pool, bounds).Scan(&missing)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for holes in the journal: %w", err)
	}
	return fmt.Errorf("%w: the journal has no event %d", ErrHole, missing)
}

// checkNoneDetached returns ErrDetached if a detached partition of a pool has events
// after one seq and up to another.
func checkNoneDetached(ctx context.Context, db postgres.Querier, pool string, after, end int64) error {
	detached, err := DetachedPartitions(ctx, db, pool)
	if err != nil {
		return err
	}
	var ranges, commands []string
	for _, partition := range detached {
		if partition.Last <= after || partition.First > end {
			continue
		}
		ranges = append(ranges,
			fmt.Sprintf("%s (events %d to %d)", partition.Name, partition.First, partition.Last))
		commands = append(commands, "`stockstream journal attach "+partition.Name+"`")
	}
	if len(ranges) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; bring it back with %s; if its table was dropped, restore its dump first",
		ErrDetached, strings.Join(ranges, ", "), strings.Join(commands, ", "))
}

// boundsWithin returns the first and the last seq of each partition, as far as they lie
// within a range whose ends are included. It returns ErrHole if there is a gap between
// partitions.
func boundsWithin(partitions []Partition, from, to int64) ([]int64, error) {
	bounds := []int64{from, to}
	next := from
	for _, partition := range partitions {
		if partition.Last < next || next > to {
			continue
		}
		if partition.First > next {
			break
		}
		bounds = append(bounds, max(partition.First, from), min(partition.Last, to))
		next = partition.Last + 1
	}
	if next <= to {
		return nil, fmt.Errorf("%w: the journal has no partition for event %d", ErrHole, next)
	}
	return bounds, nil
}
