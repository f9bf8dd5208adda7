package journal

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// recordFault records the hole or fork at which the journal of a pool stopped.
func recordFault(ctx context.Context, conn *pgx.Conn, pool, fault string) error {
	const query = `
		INSERT INTO checkpoints AS c (projection, pool, seq, fault) VALUES ($1, $2, 0, $3)
		ON CONFLICT (projection, pool) DO UPDATE SET fault = $3 WHERE c.fault IS DISTINCT FROM $3`
	if _, err := conn.Exec(ctx, query, CheckpointName, pool, fault); err != nil {
		return fmt.Errorf("record why the journal stopped: %w", err)
	}
	return nil
}

// ClearFault removes the record of a hole or fork. The journal does so once it has read
// on, and a restore before it opens the new log.
func ClearFault(ctx context.Context, conn *pgx.Conn, pool string) error {
	const query = `
		UPDATE checkpoints SET fault = NULL WHERE projection = $1 AND pool = $2 AND fault IS NOT NULL`
	if _, err := conn.Exec(ctx, query, CheckpointName, pool); err != nil {
		return fmt.Errorf("record that the journal goes on: %w", err)
	}
	return nil
}
