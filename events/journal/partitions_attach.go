package journal

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// AttachPartition brings a detached part back into the journal, after making sure that its table holds exactly the rows that
// were detached. It fails with ErrUnknownPart, ErrPartGone or ErrPartChanged, and changes nothing then.
func AttachPartition(ctx context.Context, conn *pgx.Conn, name string) (attached DetachedPartition, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockPartitions(ctx, tx); err != nil {
			return err
		}
		if attached, err = findDetached(ctx, tx, name); err != nil {
			return err
		}
		here, err := postgres.TableExists(ctx, tx, name)
		if err != nil {
			return err
		}
		if !here {
			return fmt.Errorf("%w: restore its dump first, with pg_restore", ErrPartitionGone)
		}
		events, digest, err := digestPartition(ctx, tx, name)
		if err != nil {
			return err
		}
		if events != attached.Events || digest != attached.Digest {
			return fmt.Errorf("%w: it had %d events with digest %s, and has %d with %s", ErrPartitionChanged, attached.Events, attached.Digest, events, digest)
		}
		query := fmt.Sprintf(`ALTER TABLE events ATTACH PARTITION %s FOR VALUES FROM (%d) TO (%d)`, postgres.QuoteIdentifier(name), attached.First, attached.Last+1)
		if _, err := tx.Exec(ctx, query); err != nil {
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
	parts, err := DetachedPartitions(ctx, db)
	if err != nil {
		return DetachedPartition{}, err
	}
	for _, part := range parts {
		if part.Name == name {
			return part, nil
		}
	}
	return DetachedPartition{}, fmt.Errorf("%w; `stockstream journal parts` lists them", ErrUnknownPartition)
}
