package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// ErrFenced is returned when a checkpoint is not where its runner left it: another runner has moved it.
var ErrFenced = errors.New("the checkpoint was moved by another runner")

// ReadCheckpoint returns how far a reader has come in a pool's log, 0 for one that has not begun.
func ReadCheckpoint(ctx context.Context, db postgres.Querier, projection, pool string) (seq int64, err error) {
	const query = `SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2), 0)`
	if err := db.QueryRow(ctx, query, projection, pool).Scan(&seq); err != nil {
		return 0, fmt.Errorf("read checkpoint of %s: %w", projection, err)
	}
	return seq, nil
}

// MoveCheckpoint moves a checkpoint from one seq to another. It fails with ErrFenced where it does not stand at from.
// It belongs into the transaction that writes the rows it accounts for.
func MoveCheckpoint(ctx context.Context, tx pgx.Tx, projection, pool string, from, to int64) error {
	const query = `
		INSERT INTO checkpoints AS c (projection, pool, seq) VALUES ($1, $2, $4)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $4, updated_at = now() WHERE c.seq = $3`
	tag, err := tx.Exec(ctx, query, projection, pool, from, to)
	if err != nil {
		return fmt.Errorf("move checkpoint of %s: %w", projection, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("move checkpoint of %s from %d to %d: %w", projection, from, to, ErrFenced)
	}
	return nil
}
