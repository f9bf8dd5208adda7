package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/internal/postgres"
)

// DetachedPartition is a part that was taken out of the journal, as it was then.
type DetachedPartition struct {
	Partition
	Events     int64
	Digest     string // of its rows, whatever their order
	DetachedAt time.Time
}

// DetachedPartitions returns the parts that the journal lacks, in order.
func DetachedPartitions(ctx context.Context, db postgres.Querier) ([]DetachedPartition, error) {
	rows, err := db.Query(ctx, `SELECT part, first_seq, last_seq, events, digest, detached_at FROM detached_parts ORDER BY first_seq`)
	if err != nil {
		return nil, fmt.Errorf("list detached parts: %w", err)
	}
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DetachedPartition, err error) {
		return d, row.Scan(&d.Name, &d.First, &d.Last, &d.Events, &d.Digest, &d.DetachedAt)
	})
	if err != nil {
		return nil, fmt.Errorf("list detached parts: %w", err)
	}
	return parts, nil
}

// NeededBy returns the readers that have not passed a part.
func (p Partition) NeededBy(readers []ReaderPosition) []ReaderPosition {
	var needing []ReaderPosition
	for _, reader := range readers {
		if reader.Seq < p.Last {
			needing = append(needing, reader)
		}
	}
	return needing
}

// CheckDetachable returns ErrPartNeeded unless every reader has passed a part.
func CheckDetachable(part Partition, readers []ReaderPosition) error {
	needing := part.NeededBy(readers)
	if len(needing) == 0 {
		return nil
	}
	names := make([]string, len(needing))
	for i, reader := range needing {
		names[i] = reader.String()
	}
	return fmt.Errorf("%w: %s ends at %d, and is needed by %s", ErrPartitionNeeded, part.Name, part.Last, strings.Join(names, "; "))
}

// DetachPartition takes the oldest part out of the journal, and remembers what was in it. The part stays as a table of its
// own. It returns ErrPartNeeded unless all have passed it: the readers in the database, those named, and the given one,
// which is the stream's. The newest part always stays.
func DetachPartition(ctx context.Context, conn *pgx.Conn, part Partition, stream ReaderPosition, names ...string) (DetachedPartition, error) {
	detached := DetachedPartition{Partition: part}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockPartitions(ctx, tx); err != nil {
			return err
		}
		parts, err := Partitions(ctx, tx)
		if err != nil {
			return err
		}
		if len(parts) < 2 || parts[0] != part {
			return fmt.Errorf("%w: only the oldest part can be detached, and never the newest", ErrPartitionNeeded)
		}
		readers, err := ReaderPositions(ctx, tx, names...)
		if err != nil {
			return err
		}
		if err := CheckDetachable(part, append(readers, stream)); err != nil {
			return err
		}
		if detached.Events, detached.Digest, err = digestPartition(ctx, tx, part.Name); err != nil {
			return err
		}
		const remember = `INSERT INTO detached_parts (part, first_seq, last_seq, events, digest) VALUES ($1, $2, $3, $4, $5) RETURNING detached_at`
		row := tx.QueryRow(ctx, remember, part.Name, part.First, part.Last, detached.Events, detached.Digest)
		if err := row.Scan(&detached.DetachedAt); err != nil {
			return err
		}
		// Last, since it holds up whoever reads or writes the journal until this transaction ends.
		_, err = tx.Exec(ctx, `ALTER TABLE events DETACH PARTITION `+postgres.QuoteIdentifier(part.Name))
		return err
	})
	if fault := new(pgconn.PgError); errors.As(err, &fault) && fault.Code == postgres.LockNotAvailable {
		err = fmt.Errorf("somebody reads the journal in a transaction that goes on; try again later: %w", err)
	}
	if err != nil {
		return DetachedPartition{}, fmt.Errorf("detach %s: %w", part.Name, err)
	}
	return detached, nil
}

// digestPartition counts a part's rows and adds up what each of them hashes to. Until the transaction ends, they cannot be
// changed.
func digestPartition(ctx context.Context, tx pgx.Tx, name string) (events int64, digest string, err error) {
	query := `SELECT count(*), coalesce(sum(('x' || substr(md5(concat_ws('|', pool, seq, event_id, type, sku, hold_id, payload, metadata,
		extract(epoch FROM at), extract(epoch FROM recorded_at))), 1, 15))::bit(60)::bigint), 0)::text FROM ` + postgres.QuoteIdentifier(name)
	if _, err := tx.Exec(ctx, `LOCK TABLE `+postgres.QuoteIdentifier(name)+` IN SHARE MODE`); err != nil {
		return 0, "", err
	}
	if err := tx.QueryRow(ctx, query).Scan(&events, &digest); err != nil {
		return 0, "", fmt.Errorf("digest: %w", err)
	}
	return events, digest, nil
}
