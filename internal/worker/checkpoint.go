package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// ErrFenced is returned if a checkpoint is no longer where this worker left it, or if a
// new epoch of the log began: another process continues the work, and this one must not
// write.
var ErrFenced = errors.New("fenced: another process moved the checkpoint or began a new epoch")

// ReadCheckpoint returns the seq up to which a reader has handled a pool's log, or 0 if
// the reader has not started. The journal is one of the readers, and so is every
// projection.
func ReadCheckpoint(
	ctx context.Context, db postgres.Querier, projection, pool string,
) (seq int64, err error) {
	const query = `SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2), 0)`
	if err := db.QueryRow(ctx, query, projection, pool).Scan(&seq); err != nil {
		return 0, fmt.Errorf("read the checkpoint of %s: %w", projection, err)
	}
	return seq, nil
}

// MoveCheckpoint moves a checkpoint from one seq to another, and fails with ErrFenced if
// it is not at from. Call it in the transaction that writes the rows of these events:
// then each event takes effect exactly once, however often it is delivered.
func MoveCheckpoint(ctx context.Context, tx pgx.Tx, projection, pool string, from, to int64) error {
	const query = `
		INSERT INTO checkpoints AS c (projection, pool, seq) VALUES ($1, $2, $4)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $4, updated_at = now() WHERE c.seq = $3`
	tag, err := tx.Exec(ctx, query, projection, pool, from, to)
	if err != nil {
		return fmt.Errorf("move the checkpoint of %s: %w", projection, err)
	}
	if tag.RowsAffected() != 1 {
		return fmt.Errorf("move the checkpoint of %s from %d to %d: %w", projection, from, to, ErrFenced)
	}
	return nil
}
