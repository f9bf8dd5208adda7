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

// FirstEpoch is the epoch of a pool's first log. An epoch is the number of one log of a
// pool in Redis: each time Redis is rebuilt from the journal, the pool gets a new log
// with a higher epoch, and the writers of the old one are fenced.
const FirstEpoch = 1

// PoolRecord is Postgres's record of a pool's log.
type PoolRecord struct {
	Epoch     int64     // 0 for a pool that was never set up
	Journaled int64     // the seq of the journal's last event
	LastID    uuid.UUID // the id of that event; the zero UUID if the journal is empty, or the event detached
	Server    string    // master_replid of the Redis that Epoch was raised for; "" if it is not known
	Fault     string    // the hole or fork at which the journal stopped; "" if it goes on
	// DiscardedEpoch is the newest epoch whose log in Redis an operator decided to
	// discard, until Redis was restored; see DiscardLog. It is 0 if no restore is
	// pending.
	DiscardedEpoch int64
}

// ReadPoolRecord returns Postgres's record of a pool's log.
func ReadPoolRecord(ctx context.Context, db postgres.Querier, pool string) (r PoolRecord, err error) {
	const query = `
		SELECT coalesce((SELECT epoch FROM pools WHERE pool = $1), 0), journal.seq,
		       (SELECT event_id FROM events WHERE pool = $1 AND events.seq = journal.seq),
		       coalesce((SELECT server FROM pools WHERE pool = $1), ''),
		       coalesce((SELECT fault FROM checkpoints WHERE projection = $2 AND pool = $1), ''),
		       coalesce((SELECT discarded_epoch FROM pools WHERE pool = $1), 0)
		FROM (SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0) AS seq) AS journal`
	var id pgtype.UUID
	err = db.QueryRow(ctx, query, pool, CheckpointName).
		Scan(&r.Epoch, &r.Journaled, &id, &r.Server, &r.Fault, &r.DiscardedEpoch)
	if err != nil {
		return PoolRecord{}, fmt.Errorf("read the record of pool %s: %w", pool, err)
	}
	r.LastID = id.Bytes
	return r, nil
}

// RecordPool records that a pool is set up, and the epoch of its log. An epoch never
// falls, so repeating the call changes nothing.
func RecordPool(ctx context.Context, conn *pgx.Conn, pool string, epoch int64) error {
	const query = `
		INSERT INTO pools (pool, epoch) VALUES ($1, $2)
		ON CONFLICT (pool) DO UPDATE SET epoch = $2, server = NULL WHERE pools.epoch < $2`
	if _, err := conn.Exec(ctx, query, pool, epoch); err != nil {
		return fmt.Errorf("record pool %s: %w", pool, err)
	}
	return nil
}

// Raise says how an epoch is to be raised.
type Raise struct {
	Above  int64    // the new epoch is above this one, and above the recorded one
	Server string   // master_replid of the Redis that gets the new epoch
	Silent []Seller // sellers on other servers that ended without withdrawing their report
}

// RaiseEpoch begins a new epoch of a pool's log. No other call returns the same epoch.
// When it returns, no batch of an earlier epoch can be appended any more, so the journal
// ends at journaled until the new log continues. One transaction
//
//  1. creates the journal's checkpoint, if the pool has none;
//  2. locks the checkpoint, which waits for a batch that is being appended;
//  3. raises the epoch in the table pools;
//  4. fails with ErrOtherSeller if a process sells on another Redis; see ReportSeller.
//
// The order of steps 2 and 3 is that of Writer.append, which first moves the checkpoint
// and then reads the epoch. So the two transactions take turns at the checkpoint's row.
// If the append is first, RaiseEpoch waits for it and returns the seq that it reached. If
// RaiseEpoch is first, the append waits, then reads the new epoch and fails with
// ErrFenced. In the other order, an append could read the old epoch and commit after
// RaiseEpoch has returned.
func RaiseEpoch(
	ctx context.Context, conn *pgx.Conn, pool string, raise Raise,
) (epoch, journaled int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		epoch, journaled, err = raiseEpoch(ctx, tx, pool, raise)
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("raise the epoch of pool %s: %w", pool, err)
	}
	return epoch, journaled, nil
}

// raiseEpoch is RaiseEpoch within a transaction.
func raiseEpoch(
	ctx context.Context, tx pgx.Tx, pool string, raise Raise,
) (epoch, journaled int64, err error) {
	if err := limitWaits(ctx, tx); err != nil {
		return 0, 0, err
	}
	const create = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING`
	if _, err := tx.Exec(ctx, create, CheckpointName, pool); err != nil {
		return 0, 0, err
	}
	const lock = `SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2 FOR UPDATE`
	if err := tx.QueryRow(ctx, lock, CheckpointName, pool).Scan(&journaled); err != nil {
		return 0, 0, err
	}
	const update = `
		INSERT INTO pools AS p (pool, epoch, server) VALUES ($1, $2 + 1, $3)
		ON CONFLICT (pool) DO UPDATE SET epoch = greatest(p.epoch, $2) + 1, server = $3 RETURNING epoch`
	if err := tx.QueryRow(ctx, update, pool, raise.Above, raise.Server).Scan(&epoch); err != nil {
		return 0, 0, err
	}
	return epoch, journaled, removeSilentSellers(ctx, tx, pool, raise.Server, raise.Silent)
}

// limitWaits bounds how long a transaction waits for a lock, and how long it may stay
// idle. A process that is suspended inside a transaction must not block another one for
// ever: neither a Writer this transaction, nor this transaction the Writer.
func limitWaits(ctx context.Context, tx pgx.Tx) error {
	timeouts := fmt.Sprintf(`SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = %d`,
		worker.StepTimeout.Milliseconds(), worker.AbsenceMax.Milliseconds())
	_, err := tx.Exec(ctx, timeouts)
	return err
}
