package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stockstream/stockstream/internal/postgres"
)

// PartitionState is one of the states below.
type PartitionState string

// The states of a partition.
const (
	PartitionAttached PartitionState = "attached"
	PartitionDetached PartitionState = "detached" // still in the database, as a table of its own
	PartitionGone     PartitionState = "gone"     // detached, and its table is no longer in the database
)

// PartitionReport describes a partition and its content.
type PartitionReport struct {
	Partition
	State PartitionState
	// Events is the number of its events. For an attached partition it is computed from
	// the seqs of the first and the last event.
	Events int64
	Bytes  int64 // of its table with its indexes; 0 if it is gone
	// FirstAt and LastAt are the times of its first and its last event. They are zero if
	// the partition is empty or detached.
	FirstAt time.Time
	LastAt  time.Time
	// NeededBy are the readers that have yet to read an attached partition.
	NeededBy []ReaderPosition
}

// DescribePartitions returns a report on each partition of a pool's journal, attached and
// detached, in order. NeededBy is chosen from the given readers.
func DescribePartitions(
	ctx context.Context, db postgres.Querier, pool string, readers []ReaderPosition,
) ([]PartitionReport, error) {
	attached, err := Partitions(ctx, db, pool)
	if err != nil {
		return nil, err
	}
	detached, err := DetachedPartitions(ctx, db, pool)
	if err != nil {
		return nil, err
	}
	var reports []PartitionReport
	for _, partition := range detached {
		report := PartitionReport{
			Partition: partition.Partition,
			State:     PartitionGone,
			Events:    partition.Events,
		}
		exists, err := postgres.TableExists(ctx, db, partition.Name)
		if err != nil {
			return nil, err
		}
		if exists {
			report.State = PartitionDetached
		}
		reports = append(reports, report)
	}
	for _, partition := range attached {
		report := PartitionReport{
			Partition: partition,
			State:     PartitionAttached,
			NeededBy:  partition.NeededBy(readers),
		}
		if err := report.inspect(ctx, db); err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	for i := range reports {
		const query = `SELECT coalesce(pg_total_relation_size(to_regclass($1)), 0)`
		table := postgres.QuoteIdentifier(reports[i].Name)
		if err := db.QueryRow(ctx, query, table).Scan(&reports[i].Bytes); err != nil {
			return nil, fmt.Errorf("read the size of %s: %w", reports[i].Name, err)
		}
	}
	slices.SortFunc(reports, func(a, b PartitionReport) int { return cmp.Compare(a.First, b.First) })
	return reports, nil
}

// inspect reads the first and the last event of the partition. That suffices to count the
// events, because seqs have no gaps.
func (r *PartitionReport) inspect(ctx context.Context, db postgres.Querier) error {
	query := fmt.Sprintf(`
		SELECT coalesce(sum(l.seq - f.seq + 1), 0)::bigint, min(f.at), max(l.at) FROM
		(SELECT seq, at FROM %[1]s WHERE pool = $1 ORDER BY seq LIMIT 1) AS f,
		(SELECT seq, at FROM %[1]s WHERE pool = $1 ORDER BY seq DESC LIMIT 1) AS l`,
		postgres.QuoteIdentifier(r.Name))
	var first, last *time.Time
	if err := db.QueryRow(ctx, query, r.Pool).Scan(&r.Events, &first, &last); err != nil {
		return fmt.Errorf("inspect partition %s: %w", r.Name, err)
	}
	if first != nil && last != nil {
		r.FirstAt = *first
		r.LastAt = *last
	}
	return nil
}
