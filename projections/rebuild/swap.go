package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
)

const (
	// lockTimeout bounds how long readers and the live line may have to queue up behind an attempt to exchange.
	lockTimeout = 300 * time.Millisecond
	lockPause   = 200 * time.Millisecond // between attempts, longer with each
	lockAttempts   = 40
	// lastEventsMax is how many events may be left for the exchange's own transaction.
	lastEventsMax = 5000
	// swapTimeout bounds that transaction. It is not broken off otherwise, not even by a shutdown.
	swapTimeout = 30 * time.Second
)

// swapAll puts the new tables of every projection in place, each in a transaction of its own.
func (j *Job) swapAll(ctx context.Context) (outcomes []Result, err error) {
	j.pace.step(StepSwap)
	for _, s := range j.shadows {
		outcome, err := j.swapOne(ctx, s)
		if err != nil {
			return outcomes, fmt.Errorf("exchange the tables of %s: %w", s.Name, err)
		}
		outcomes = append(outcomes, outcome)
		s.close(ctx) // the names that it finds are the live ones now
	}
	j.pace.step(StepDone)
	return outcomes, nil
}

// swapOne catches up and tries, until the tables are free for a moment.
func (j *Job) swapOne(ctx context.Context, s *shadow) (outcome Result, err error) {
	for try := range lockAttempts {
		if err := j.catchUp(ctx, s); err != nil {
			return outcome, err
		}
		if outcome, err = j.trySwap(ctx, s); err == nil || !isRetryable(err) {
			return outcome, err
		}
		if err := wait.For(ctx, time.Duration(try+1)*lockPause); err != nil {
			return outcome, err
		}
	}
	return outcome, fmt.Errorf("somebody holds the tables for long: %w", err)
}

var errTooFarBehind = errors.New("the live tables have moved on too far")

// isRetryable reports whether a transaction that locks tables may succeed a moment later.
func isRetryable(err error) bool {
	const lockNotAvailable, deadlock = "55P03", "40P01"
	fault := new(pgconn.PgError)
	return errors.Is(err, errTooFarBehind) || errors.As(err, &fault) && (fault.Code == lockNotAvailable || fault.Code == deadlock)
}

// trySwap applies the last events and exchanges the tables, in one transaction of the session that holds the lease:
// a runner that has lost the lease cannot do it.
func (j *Job) trySwap(ctx context.Context, s *shadow) (outcome Result, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), swapTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, j.lease.Conn, func(tx pgx.Tx) error {
		seq, err := s.lockLiveTables(ctx, tx, s.Tables, s.Name, s.pool)
		if err != nil {
			return err
		}
		if err := s.applyLast(ctx, tx, seq, j); err != nil {
			return err
		}
		if outcome, err = s.swapTables(ctx, tx, s.Projection, s.pool, s.shadow); err != nil {
			return err
		}
		return recordSwap(ctx, tx, j.id, s.Name)
	})
	return outcome, err
}

// lockLiveTables keeps readers and the live line off the tables, and returns the checkpoint that they stand at. The tables
// come first, as they do in the live line's transactions; the checkpoint, which that line moves last, stands still then.
func (h schemas) lockLiveTables(ctx context.Context, tx pgx.Tx, tables []string, projection, pool string) (seq int64, err error) {
	// A process that is stopped meanwhile must not keep everybody off them for as long.
	const bounds = `SET LOCAL lock_timeout = %d; SET LOCAL idle_in_transaction_session_timeout = '30s'`
	if _, err := tx.Exec(ctx, fmt.Sprintf(bounds, lockTimeout.Milliseconds())); err != nil {
		return 0, err
	}
	for _, table := range tables {
		name := pgx.Identifier{h.live, table}.Sanitize()
		var exists bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil {
			return 0, err
		}
		if !exists {
			continue
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE `+name+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return 0, err
		}
	}
	// The row has to be there to be locked.
	const begin = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0) ON CONFLICT (projection, pool) DO NOTHING`
	if _, err := tx.Exec(ctx, begin, projection, pool); err != nil {
		return 0, err
	}
	const query = `SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2 FOR UPDATE`
	return seq, tx.QueryRow(ctx, query, projection, pool).Scan(&seq)
}

// applyLast brings the shadow to the seq of the live tables, which are locked.
func (s *shadow) applyLast(ctx context.Context, tx pgx.Tx, seq int64, j *Job) error {
	after := s.seq.Load()
	switch {
	case seq < after:
		return fmt.Errorf("the live checkpoint went back from %d to %d: %w", after, seq, events.ErrFenced)
	case seq-after > lastEventsMax:
		return errTooFarBehind
	case seq == after:
		return nil
	}
	last, err := events.ReadEvents(ctx, tx, s.pool, after, int(seq-after))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT set_config('search_path', $1, true)`, quote(s.shadow)+", "+s.path); err != nil {
		return err
	}
	if err := s.replay(ctx, tx, last, j); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `SELECT set_config('search_path', $1, true)`, s.path)
	return err
}
