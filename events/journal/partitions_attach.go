package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// AttachPartition attaches a detached partition to the journal again, if its table has
// exactly the rows that were detached. Otherwise it changes nothing and fails, with
// ErrPartitionGone if the table is not in the database.
func AttachPartition(
	ctx context.Context, conn *pgx.Conn, name string,
) (attached DetachedPartition, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
		if err := lockPartitions(ctx, tx); err != nil {
			return err
		}
		attached, err = findDetached(ctx, tx, name)
		if err != nil {
			return err
		}
		if err := checkUnchanged(ctx, tx, attached); err != nil {
			return err
		}
		attach := fmt.Sprintf(`ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`,
			postgres.QuoteIdentifier(poolTable(attached.Pool)), postgres.QuoteIdentifier(name),
			attached.First, attached.Last+1)
		if _, err := tx.Exec(ctx, attach); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM detached_parts WHERE part = $1`, name)
		return err
	})
	if err != nil {
		return DetachedPartition{}, fmt.Errorf("attach %s: %w", name, err)
	}
	return attached, nil
}

func findDetached(ctx context.Context, db postgres.Querier, name string) (DetachedPartition, error) {
	partitions, err := readDetached(ctx, db, `part = $1`, name)
	if err != nil {
		return DetachedPartition{}, err
	}
	if len(partitions) == 0 {
		return DetachedPartition{}, errors.New("no such detached partition; `stockstream journal parts` lists them")
	}
	return partitions[0], nil
}

// checkUnchanged compares the table of a detached partition with the digest taken when it
// was detached.
func checkUnchanged(ctx context.Context, tx pgx.Tx, detached DetachedPartition) error {
	exists, err := postgres.TableExists(ctx, tx, detached.Name)
	if err != nil {
		return err
	}
	if !exists {
		return fmt.Errorf("%w: restore its dump first, with pg_restore", ErrPartitionGone)
	}
	events, digest, err := digestPartition(ctx, tx, detached.Name)
	if err != nil {
		return err
	}
	if events != detached.Events || digest != detached.Digest {
		return fmt.Errorf("the partition's rows are not those that were detached: "+
			"it had %d events with digest %s, and now has %d with %s",
			detached.Events, detached.Digest, events, digest)
	}
	return nil
}
