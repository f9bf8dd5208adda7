package journal

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
)

// FirstEpoch is the first life of a pool's log. A pool that Postgres does not know yet will begin with it.
const FirstEpoch = 1

// PoolRecord is what Postgres knows of a pool's log.
type PoolRecord struct {
	Epoch     int64     // 0 for a pool that was never set up
	Journaled int64     // the seq that the journal ends at
	LastID    uuid.UUID // the journal's last event; the zero UUID where there is none, or where it was detached
}

// ReadPoolRecord returns what Postgres knows of a pool's log.
func ReadPoolRecord(ctx context.Context, db postgres.Querier, pool string) (r PoolRecord, err error) {
	const query = `
		SELECT coalesce((SELECT epoch FROM pools WHERE pool = $1), 0), journal.seq,
		       (SELECT event_id FROM events WHERE pool = $1 AND events.seq = journal.seq)
		FROM (SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0) AS seq) AS journal`
	var id pgtype.UUID
	if err := db.QueryRow(ctx, query, pool, CheckpointName).Scan(&r.Epoch, &r.Journaled, &id); err != nil {
		return PoolRecord{}, fmt.Errorf("read what is recorded of pool %s: %w", pool, err)
	}
	r.LastID = id.Bytes
	return r, nil
}

// RecordPool remembers that a pool is set up, and in which epoch its log is. An epoch never falls; doing so again
// changes nothing.
func RecordPool(ctx context.Context, conn *pgx.Conn, pool string, epoch int64) error {
	const query = `
		INSERT INTO pools (pool, epoch) VALUES ($1, $2)
		ON CONFLICT (pool) DO UPDATE SET epoch = $2 WHERE pools.epoch < $2`
	if _, err := conn.Exec(ctx, query, pool, epoch); err != nil {
		return fmt.Errorf("record pool %s: %w", pool, err)
	}
	return nil
}

// RaiseEpoch begins a new life of a pool's log, with an epoch above what is recorded and above a given one. What the
// journal has read of an earlier life, and has not written when this returns, it will not write any more; journaled is
// therefore where the journal ends until the new life goes on. Nobody else is given the same epoch. It waits for a batch
// that is being written, and fails where that takes longer than a batch may.
func RaiseEpoch(ctx context.Context, conn *pgx.Conn, pool string, above int64) (epoch, journaled int64, err error) {
	// The journal moves its checkpoint first and looks at the epoch after it, in one transaction. Taking the two rows in
	// the same order, this one comes wholly before such a transaction, which then sees the new epoch, or wholly after.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// A runner that is stopped within its transaction must not hold this up for good, nor this the journal.
		bounds := fmt.Sprintf(`SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d`, worker.StepTimeout.Milliseconds(), worker.AbsenceMax.Milliseconds())
		if _, err := tx.Exec(ctx, bounds); err != nil {
			return err
		}
		const begin = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING`
		if _, err := tx.Exec(ctx, begin, CheckpointName, pool); err != nil {
			return err
		}
		const lock = `SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2 FOR UPDATE`
		if err := tx.QueryRow(ctx, lock, CheckpointName, pool).Scan(&journaled); err != nil {
			return err
		}
		const raise = `
			INSERT INTO pools AS p (pool, epoch) VALUES ($1, $2 + 1)
			ON CONFLICT (pool) DO UPDATE SET epoch = greatest(p.epoch, $2) + 1 RETURNING epoch`
		return tx.QueryRow(ctx, raise, pool, above).Scan(&epoch)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("raise the epoch of pool %s: %w", pool, err)
	}
	return epoch, journaled, nil
}
