package events

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PoolRecorded reports whether a pool was ever set up.
func PoolRecorded(ctx context.Context, db Querier, pool string) (recorded bool, err error) {
	if err := db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pools WHERE pool = $1)`, pool).Scan(&recorded); err != nil {
		return false, fmt.Errorf("look for pool %s: %w", pool, err)
	}
	return recorded, nil
}

// RecordPool remembers that a pool is set up. Doing so again changes nothing.
func RecordPool(ctx context.Context, conn *pgx.Conn, pool string, epoch int64) error {
	const query = `INSERT INTO pools (pool, epoch) VALUES ($1, $2) ON CONFLICT (pool) DO NOTHING`
	if _, err := conn.Exec(ctx, query, pool, epoch); err != nil {
		return fmt.Errorf("record pool %s: %w", pool, err)
	}
	return nil
}
