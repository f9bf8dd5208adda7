package journal

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// MemoryPromiseLife is how long a promise of PromiseMemory holds for new keys. A process
// repeats it long before, so that an outage of Postgres does not end it.
const MemoryPromiseLife = 48 * time.Hour

// PromiseMemory records that keys which a process writes from now on, for
// MemoryPromiseLife, are remembered for keep.
func PromiseMemory(ctx context.Context, conn *pgx.Conn, pool string, keep time.Duration) error {
	const record = `
		INSERT INTO memory_promises AS m (pool, keep_ms, until)
		VALUES ($1, $2, clock_timestamp() + $3 * interval '1 millisecond')
		ON CONFLICT (pool, keep_ms) DO UPDATE SET until = greatest(m.until, excluded.until)`
	_, err := conn.Exec(ctx, record, pool, keep.Milliseconds(), (MemoryPromiseLife + keep).Milliseconds())
	if err != nil {
		return fmt.Errorf("record how long keys are remembered: %w", err)
	}
	return nil
}

// PromisedMemory returns the longest time for which a key of the pool may still have to
// be remembered, counted from when it was written; 0 if no process has promised any.
func PromisedMemory(ctx context.Context, db postgres.Querier, pool string) (time.Duration, error) {
	const query = `
		SELECT coalesce(max(keep_ms), 0) FROM memory_promises WHERE pool = $1 AND until > clock_timestamp()`
	var keepMs int64
	if err := db.QueryRow(ctx, query, pool).Scan(&keepMs); err != nil {
		return 0, fmt.Errorf("read how long keys are remembered: %w", err)
	}
	return time.Duration(keepMs) * time.Millisecond, nil
}
