package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

const (
	// lockTimeout bounds how long one attempt waits for its locks. Readers and the live
	// worker queue up behind that attempt.
	lockTimeout = 300 * time.Millisecond
	// The pause between attempts doubles with each, from lockPauseMin to lockPauseMax.
	lockPauseMin = 200 * time.Millisecond
	lockPauseMax = 5 * time.Second
	// lastEventsMax is how many events the transaction of the swap may have to apply.
	lastEventsMax = 5000
	// swapTimeout bounds the transaction of the swap. A shutdown or a cancel does not
	// interrupt it.
	swapTimeout = 30 * time.Second
)

// swapAll swaps the tables of every projection, each in a transaction of its own.
func (j *Job) swapAll(ctx context.Context) (results []Result, err error) {
	j.tracker.setStep(StepSwap)
	for _, s := range j.shadows {
		result, err := j.swapOne(ctx, s)
		if err != nil {
			return results, fmt.Errorf("swap the tables of %s: %w", s.Name, err)
		}
		results = append(results, result)
		s.close(ctx) // without the shadow schema, its search_path finds the live tables
	}
	j.tracker.setStep(StepDone)
	return results, nil
}

// swapOne catches up and tries to swap, again and again until it gets the locks. A reader
// may keep them for hours, and the shadow tables are worth the wait, so only the end of
// ctx ends it.
func (j *Job) swapOne(ctx context.Context, s *shadow) (result Result, err error) {
	defer j.tracker.setWaitsFor(nil)
	for pause := lockPauseMin; ; pause = min(2*pause, lockPauseMax) {
		if err := j.catchUp(ctx, s); err != nil {
			return result, err
		}
		result, err = j.trySwap(ctx, s)
		if err == nil || !isRetryable(err) {
			return result, err
		}
		if err := j.noteWait(ctx, s, err); err != nil {
			return result, err
		}
		if err := wait.For(ctx, pause); err != nil {
			return result, err
		}
	}
}

// noteWait records and logs why the swap waits. It logs each holder of a lock once.
func (j *Job) noteWait(ctx context.Context, s *shadow, cause error) error {
	log := j.config.Log.With("rebuild", j.id, "projection", s.Name)
	if !postgres.IsCode(cause, postgres.LockNotAvailable) {
		log.Info("the swap is tried again", "cause", cause)
		return nil
	}
	holder, err := s.findLockHolder(ctx, j.db, s.Tables)
	if err != nil {
		return err
	}
	before := j.tracker.current().WaitsFor
	switch {
	case holder == nil: // it has ended meanwhile
	case before != nil && before.PID == holder.PID:
		if before.Since.Before(holder.Since) {
			holder.Since = before.Since // of the first time that it was found
		}
	default:
		log.Warn("the swap waits for a lock on a live table, and keeps its new tables",
			"pid", holder.PID,
			"application_name", holder.Application,
			"role", holder.Role,
			"since", holder.Since,
			"query", holder.Query)
	}
	j.tracker.setWaitsFor(holder)
	return nil
}

var errTooFarBehind = fmt.Errorf(
	"the shadow tables are more than %d events behind the live tables", lastEventsMax,
)

// isRetryable reports whether a swap that failed with err may succeed a moment later.
func isRetryable(err error) bool {
	return errors.Is(err, errTooFarBehind) ||
		postgres.IsCode(err,
			postgres.LockNotAvailable, postgres.DeadlockDetected, postgres.SerializationFailure)
}

// trySwap applies the last events and swaps the tables in one transaction. It runs on the
// session of the lease, so a rebuild that has lost its lease cannot swap. If the rebuild
// was cancelled, it fails with ErrCancelled.
func (j *Job) trySwap(ctx context.Context, s *shadow) (result Result, err error) {
	j.leaseMu.Lock()
	defer j.leaseMu.Unlock()
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
		if result, err = s.swapTables(ctx, tx, s.Projection, s.pool); err != nil {
			return err
		}
		return recordSwap(ctx, tx, j.id, s.Name)
	})
	return result, err
}

// lockLiveTables locks the live tables and then their checkpoint, against readers and the
// live worker, and returns that checkpoint. The order is that of the live worker's own
// transactions, which write the tables first and move the checkpoint last.
func (s schemas) lockLiveTables(
	ctx context.Context, tx pgx.Tx, tables []string, projection, pool string,
) (seq int64, err error) {
	const bound = `SET LOCAL lock_timeout = %d`
	if _, err := tx.Exec(ctx, fmt.Sprintf(bound, lockTimeout.Milliseconds())); err != nil {
		return 0, err
	}
	for _, table := range tables {
		name := pgx.Identifier{s.live, table}.Sanitize()
		exists, err := tableExists(ctx, tx, name)
		if err != nil {
			return 0, err
		}
		if !exists {
			continue
		}
		if _, err := tx.Exec(ctx, `LOCK TABLE `+name+` IN ACCESS EXCLUSIVE MODE`); err != nil {
			return 0, err
		}
	}
	// A row that does not exist cannot be locked.
	const insert = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0) ON CONFLICT (projection, pool) DO NOTHING`
	if _, err := tx.Exec(ctx, insert, projection, pool); err != nil {
		return 0, err
	}
	const query = `SELECT seq FROM checkpoints WHERE projection = $1 AND pool = $2 FOR UPDATE`
	err = tx.QueryRow(ctx, query, projection, pool).Scan(&seq)
	return seq, err
}

// applyLast applies the events between the shadow's seq and the seq of the locked live
// tables. Within tx, it sets the search_path to the shadow schema and back.
func (s *shadow) applyLast(ctx context.Context, tx pgx.Tx, seq int64, j *Job) error {
	after := s.seq.Load()
	switch {
	case seq < after:
		return fmt.Errorf("the live checkpoint went back from %d to %d: %w", after, seq, worker.ErrFenced)
	case seq-after > lastEventsMax:
		return errTooFarBehind
	case seq == after:
		return nil
	}
	last, err := journal.ReadEvents(ctx, tx, s.pool, after, int(seq-after))
	if err != nil {
		return err
	}
	const setPath = `SELECT set_config('search_path', $1, true)`
	if _, err := tx.Exec(ctx, setPath, quote(s.shadow)+", "+s.path); err != nil {
		return err
	}
	if err := s.replay(ctx, tx, last, j); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, setPath, s.path)
	return err
}
