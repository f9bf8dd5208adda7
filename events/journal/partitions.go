package journal

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Partition is one partition of the journal: the events of a pool in a range of seqs.
type Partition struct {
	Pool  string
	Name  string // of its table
	First int64  // the lowest seq of its range
	Last  int64  // the highest seq of its range
}

// partitionEvents is how many seqs a new partition spans: some hours of a busy shop,
// about 500 MB. Partitions may differ in size, and the one that the migration made of an
// older journal may be larger. Tests set it lower.
var partitionEvents int64 = 2_000_000

// poolTable returns the name of the table that has a pool's events: the partition of
// events for that pool, which consists of Partitions.
func poolTable(pool string) string { return "events_" + pool }

// partitionName returns the name of the partition that begins with a seq. The names of
// the pool main are those from before there were pools.
func partitionName(pool string, first int64) string {
	if pool == events.MainPool.Name() {
		return fmt.Sprintf("events_%d", first)
	}
	return fmt.Sprintf("%s_%d", poolTable(pool), first)
}

// Partitions returns the attached partitions of a pool's journal, in order. A pool
// without events has none.
func Partitions(ctx context.Context, db postgres.Querier, pool string) ([]Partition, error) {
	const query = `
		SELECT $1, name, bounds[1]::bigint, bounds[2]::bigint - 1 FROM (
			SELECT relname AS name, regexp_match(pg_get_expr(relpartbound, oid), 'FROM \(''?(\d+)''?\) TO \(''?(\d+)''?\)') AS bounds
			FROM pg_class JOIN pg_inherits ON inhrelid = oid
			WHERE inhparent = to_regclass($2) AND NOT inhdetachpending
		) AS part ORDER BY 3`
	rows, err := db.Query(ctx, query, pool, postgres.QuoteIdentifier(poolTable(pool)))
	if err != nil {
		return nil, fmt.Errorf("list the partitions of the journal: %w", err)
	}
	partitions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Partition])
	if err != nil {
		return nil, fmt.Errorf("list the partitions of the journal: %w", err)
	}
	return partitions, nil
}

// lockPartitions makes this transaction the only one that adds, detaches or attaches
// partitions. It gives up after a second, because the Writer and every reader queue
// behind a transaction that waits for a lock on the journal. They also queue behind one
// that has the lock and does not go on, so Postgres ends the session of a process that
// was suspended.
func lockPartitions(ctx context.Context, tx pgx.Tx) error {
	const settings = `SET LOCAL lock_timeout = '1s'; SET LOCAL idle_in_transaction_session_timeout = '30s'`
	if _, err := tx.Exec(ctx, settings); err != nil {
		return fmt.Errorf("lock the partitions of the journal: %w", err)
	}
	const lock = `SELECT pg_advisory_xact_lock(` + postgres.LockKey + `)`
	if _, err := tx.Exec(ctx, lock, postgres.PartitionsLock); err != nil {
		return fmt.Errorf("lock the partitions of the journal: %w", err)
	}
	return nil
}
