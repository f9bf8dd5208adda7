package journal

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// Partition is a part of the journal: a table with the events of a range of seq, of every pool.
type Partition struct {
	Name  string // of its table
	First int64  // the lowest seq that belongs into it
	Last  int64  // the highest
}

// partitionEvents is how many seqs a new part spans: some hours of a busy shop, and half a gigabyte. The part that the
// migration makes of an older journal may be larger; nothing relies on parts being equal. Tests set it lower.
var partitionEvents int64 = 2_000_000

// partitionName is the name of the part that begins with a seq.
func partitionName(first int64) string { return fmt.Sprintf("events_%d", first) }

// Partitions returns the parts that the journal consists of, in order. Detached ones are not among them.
func Partitions(ctx context.Context, db postgres.Querier) ([]Partition, error) {
	const query = `
		SELECT name, bounds[1]::bigint, bounds[2]::bigint - 1 FROM (
			SELECT relname AS name, regexp_match(pg_get_expr(relpartbound, oid), 'FROM \(''?(\d+)''?\) TO \(''?(\d+)''?\)') AS bounds
			FROM pg_class JOIN pg_inherits ON inhrelid = oid
			WHERE inhparent = 'events'::regclass AND NOT inhdetachpending
		) AS part ORDER BY 2`
	rows, err := db.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("list the parts of the journal: %w", err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Partition])
	if err != nil {
		return nil, fmt.Errorf("list the parts of the journal: %w", err)
	}
	return parts, nil
}

// lockPartitions makes this transaction the only one that adds or takes parts. It gives up soon: what waits for a lock on
// the journal is waited for by the journal's line and by every reader. So is what holds one, in a process that is stopped.
func lockPartitions(ctx context.Context, tx pgx.Tx) error {
	const query = `
		SET LOCAL lock_timeout = '1s';
		SET LOCAL idle_in_transaction_session_timeout = '30s';
		SELECT pg_advisory_xact_lock(hashtextextended('stockstream/' || current_schema() || '/parts', 0))`
	if _, err := tx.Exec(ctx, query); err != nil {
		return fmt.Errorf("lock the parts of the journal: %w", err)
	}
	return nil
}
