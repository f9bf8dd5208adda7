package journal

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// DetachedPartition is a partition that was detached from the journal, with a record of
// its rows.
type DetachedPartition struct {
	Partition
	Events     int64
	Digest     string // of its rows, independent of their order
	DetachedAt time.Time
}

// DetachedPartitions returns the partitions that were detached from a pool's journal, in
// order.
func DetachedPartitions(
	ctx context.Context, db postgres.Querier, pool string,
) ([]DetachedPartition, error) {
	return readDetached(ctx, db, `pool = $1`, pool)
}

// readDetached returns the detached partitions that match a condition, in order.
func readDetached(
	ctx context.Context, db postgres.Querier, condition string, args ...any,
) ([]DetachedPartition, error) {
	query := `
		SELECT pool, part, first_seq, last_seq, events, digest, detached_at FROM detached_parts
		WHERE ` + condition + ` ORDER BY first_seq`
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list detached partitions: %w", err)
	}
	partitions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DetachedPartition, err error) {
		return d, row.Scan(&d.Pool, &d.Name, &d.First, &d.Last, &d.Events, &d.Digest, &d.DetachedAt)
	})
	if err != nil {
		return nil, fmt.Errorf("list detached partitions: %w", err)
	}
	return partitions, nil
}

// NeededBy returns the readers of its pool that have yet to read events of the partition.
func (p Partition) NeededBy(readers []ReaderPosition) []ReaderPosition {
	var needing []ReaderPosition
	for _, reader := range readers {
		if reader.Pool == p.Pool && reader.Seq < p.Last {
			needing = append(needing, reader)
		}
	}
	return needing
}

// CheckDetachable returns ErrPartitionNeeded unless every reader has read the whole
// partition.
func CheckDetachable(partition Partition, readers []ReaderPosition) error {
	needing := partition.NeededBy(readers)
	if len(needing) == 0 {
		return nil
	}
	names := make([]string, len(needing))
	for i, reader := range needing {
		names[i] = reader.String()
	}
	return fmt.Errorf("%w: %s ends at %d, and is needed by %s",
		ErrPartitionNeeded, partition.Name, partition.Last, strings.Join(names, "; "))
}

// DetachPartition detaches the oldest partition from its pool's journal. The partition
// stays in the database as a table of its own, and a record of its rows is kept for
// AttachPartition.
//
// It fails with ErrPartitionNeeded unless all of these have read the partition: every
// reader with a checkpoint in its pool, the named readers, and the consumer group of the
// pool's stream, whose position the caller passes. The newest partition always stays.
func DetachPartition(
	ctx context.Context, conn *pgx.Conn, partition Partition, stream ReaderPosition, names ...string,
) (DetachedPartition, error) {
	detached := DetachedPartition{Partition: partition}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockPartitions(ctx, tx); err != nil {
			return err
		}
		if err := checkOldest(ctx, tx, partition); err != nil {
			return err
		}
		readers, err := ReaderPositions(ctx, tx, names...)
		if err != nil {
			return err
		}
		if err := CheckDetachable(partition, append(readers, stream)); err != nil {
			return err
		}
		if err := detached.record(ctx, tx); err != nil {
			return err
		}
		// This statement comes last, because it blocks all readers and the Writer until
		// the transaction ends.
		_, err = tx.Exec(ctx, `ALTER TABLE `+postgres.QuoteIdentifier(poolTable(partition.Pool))+
			` DETACH PARTITION `+postgres.QuoteIdentifier(partition.Name))
		return err
	})
	if postgres.IsCode(err, postgres.LockNotAvailable) {
		err = fmt.Errorf("a long transaction is reading the journal; try again later: %w", err)
	}
	if err != nil {
		return DetachedPartition{}, fmt.Errorf("detach %s: %w", partition.Name, err)
	}
	return detached, nil
}

// checkOldest returns ErrPartitionNeeded unless the partition is the oldest, and not the
// only one.
func checkOldest(ctx context.Context, tx pgx.Tx, partition Partition) error {
	attached, err := Partitions(ctx, tx, partition.Pool)
	if err != nil {
		return err
	}
	if len(attached) < 2 || attached[0] != partition {
		return fmt.Errorf("%w: only the oldest partition can be detached, and never the newest",
			ErrPartitionNeeded)
	}
	return nil
}

// record counts the partition's rows and stores their digest in detached_parts.
func (d *DetachedPartition) record(ctx context.Context, tx pgx.Tx) (err error) {
	d.Events, d.Digest, err = digestPartition(ctx, tx, d.Name)
	if err != nil {
		return err
	}
	const query = `
		INSERT INTO detached_parts (pool, part, first_seq, last_seq, events, digest) VALUES ($1, $2, $3, $4, $5, $6)
		RETURNING detached_at`
	return tx.QueryRow(ctx, query, d.Pool, d.Name, d.First, d.Last, d.Events, d.Digest).Scan(&d.DetachedAt)
}

// digestPartition counts a partition's rows and adds up a hash of each. It locks the
// table, so the rows cannot change until the transaction ends.
func digestPartition(ctx context.Context, tx pgx.Tx, name string) (events int64, digest string, err error) {
	table := postgres.QuoteIdentifier(name)
	if _, err := tx.Exec(ctx, `LOCK TABLE `+table+` IN SHARE MODE`); err != nil {
		return 0, "", err
	}
	query := `SELECT count(*), coalesce(sum(('x' || substr(md5(concat_ws('|', pool, seq, event_id, type, sku, hold_id, payload, metadata,
		extract(epoch FROM at), extract(epoch FROM recorded_at))), 1, 15))::bit(60)::bigint), 0)::text FROM ` + table
	if err := tx.QueryRow(ctx, query).Scan(&events, &digest); err != nil {
		return 0, "", fmt.Errorf("compute the digest: %w", err)
	}
	return events, digest, nil
}
