package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stockstream/stockstream/internal/postgres"
)

// PartitionState says where a part is.
type PartitionState string

// A detached part may still be in the database as a table of its own, or be gone from it.
const (
	PartitionAttached PartitionState = "attached"
	PartitionDetached PartitionState = "detached"
	PartitionGone     PartitionState = "gone"
)

// PartitionReport is a part with what is in it.
type PartitionReport struct {
	Partition
	State    PartitionState
	Events   int64            // of an attached part, by the seqs of its first and last events
	Bytes    int64            // of its table with its indexes; 0 where it is gone
	FirstAt  time.Time        // when its first event was decided; zero where there is none, or the part is detached
	LastAt   time.Time        // and its last
	NeededBy []ReaderPosition // readers that have not passed it; of an attached part
}

// DescribePartitions returns all parts in order, attached and detached. Readers are those to look out for.
func DescribePartitions(ctx context.Context, db postgres.Querier, readers []ReaderPosition) ([]PartitionReport, error) {
	attached, err := Partitions(ctx, db)
	if err != nil {
		return nil, err
	}
	detached, err := DetachedPartitions(ctx, db)
	if err != nil {
		return nil, err
	}
	var reports []PartitionReport
	for _, part := range detached {
		report := PartitionReport{Partition: part.Partition, State: PartitionGone, Events: part.Events}
		here, err := postgres.TableExists(ctx, db, part.Name)
		if err != nil {
			return nil, err
		}
		if here {
			report.State = PartitionDetached
		}
		reports = append(reports, report)
	}
	for _, part := range attached {
		report := PartitionReport{Partition: part, State: PartitionAttached, NeededBy: part.NeededBy(readers)}
		if err := report.inspect(ctx, db); err != nil {
			return nil, err
		}
		reports = append(reports, report)
	}
	for i := range reports {
		const query = `SELECT coalesce(pg_total_relation_size(to_regclass($1)), 0)`
		if err := db.QueryRow(ctx, query, postgres.QuoteIdentifier(reports[i].Name)).Scan(&reports[i].Bytes); err != nil {
			return nil, fmt.Errorf("size of %s: %w", reports[i].Name, err)
		}
	}
	slices.SortFunc(reports, func(a, b PartitionReport) int { return cmp.Compare(a.First, b.First) })
	return reports, nil
}

// inspect reads the first and the last event of each pool in a part: seqs are dense, so they tell the rest.
func (r *PartitionReport) inspect(ctx context.Context, db postgres.Querier) error {
	query := fmt.Sprintf(`
		SELECT coalesce(sum(l.seq - f.seq + 1), 0)::bigint, min(f.at), max(l.at)
		FROM (SELECT pool FROM checkpoints WHERE projection = $1) AS p,
		LATERAL (SELECT seq, at FROM %[1]s WHERE pool = p.pool ORDER BY seq LIMIT 1) AS f,
		LATERAL (SELECT seq, at FROM %[1]s WHERE pool = p.pool ORDER BY seq DESC LIMIT 1) AS l`, postgres.QuoteIdentifier(r.Name))
	var first, last *time.Time
	if err := db.QueryRow(ctx, query, CheckpointName).Scan(&r.Events, &first, &last); err != nil {
		return fmt.Errorf("look into %s: %w", r.Name, err)
	}
	if first != nil && last != nil {
		r.FirstAt, r.LastAt = *first, *last
	}
	return nil
}
