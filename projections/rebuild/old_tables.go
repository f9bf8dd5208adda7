package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/projections"
)

// ErrNoOldTables is returned by DropOld and RestoreOld if no old tables are kept.
var ErrNoOldTables = errors.New("no old tables are kept")

// DropOld drops the old tables that a rebuild of the projection replaced, and the shadow
// schema that an interrupted rebuild may have left behind. It fails with ErrNoOldTables
// if no old tables are kept, and with ErrRebuildRunning while a rebuild runs.
func DropOld(ctx context.Context, config Config, p projections.Projection) error {
	return withLease(ctx, config, p, func(conn *pgx.Conn, s schemas) error {
		kept, err := schemaExists(ctx, conn, s.old)
		if err != nil {
			return err
		}
		drop := `DROP SCHEMA IF EXISTS ` + quote(s.shadow) + `, ` + quote(s.old) + ` CASCADE`
		if _, err := conn.Exec(ctx, drop); err != nil {
			return fmt.Errorf("drop the old tables of %s: %w", p.Name, err)
		}
		if !kept {
			return fmt.Errorf("projection %s: %w", p.Name, ErrNoOldTables)
		}
		return nil
	})
}

// RestoreOld swaps the old tables back in, with their checkpoint and their dead letters.
// The live worker continues from that checkpoint. The tables that served until now are
// kept as the old tables, so a second RestoreOld undoes the first.
//
// RestoreOld fails with ErrNoOldTables, ErrRebuildRunning, ErrOtherPools, and with
// journal.ErrDetached or journal.ErrHole if the journal lacks events after the checkpoint
// of the old tables.
func RestoreOld(ctx context.Context, config Config, p projections.Projection) (result Result, err error) {
	err = withLease(ctx, config, p, func(conn *pgx.Conn, s schemas) error {
		kept, err := schemaExists(ctx, conn, s.old)
		switch {
		case err != nil:
			return err
		case !kept:
			return fmt.Errorf("projection %s: %w", p.Name, ErrNoOldTables)
		}
		if err := checkOnlyPool(ctx, conn, config.Pool.Name(), p); err != nil {
			return err
		}
		began := time.Now()
		for pause := lockPauseMin; ; pause = min(2*pause, lockPauseMax) {
			result, err = s.tryRestore(ctx, conn, p, config.Pool.Name())
			if err == nil || !isRetryable(err) {
				return err
			}
			holder, findErr := s.findLockHolder(context.WithoutCancel(ctx), conn, p.Tables)
			if findErr != nil {
				return findErr
			}
			if holder != nil {
				err = fmt.Errorf("%w: %s", err, holder)
			}
			if endErr := wait.For(ctx, pause); endErr != nil || time.Since(began) > restorePatience {
				return errors.Join(err, endErr)
			}
		}
	})
	return result, err
}

// restorePatience is how long RestoreOld tries to lock the live tables. It has no new
// tables to lose, so it gives up earlier than a rebuild.
const restorePatience = 2 * time.Minute

// tryRestore renames the old schema to the shadow schema and swaps its tables in, in one
// transaction. The end of ctx does not interrupt it, as that would close the session.
func (s schemas) tryRestore(
	ctx context.Context, conn *pgx.Conn, p projections.Projection, pool string,
) (result Result, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), swapTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := s.lockLiveTables(ctx, tx, p.Tables, p.Name, pool); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DROP SCHEMA IF EXISTS `+quote(s.shadow)+` CASCADE`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `ALTER SCHEMA `+quote(s.old)+` RENAME TO `+quote(s.shadow)); err != nil {
			return err
		}
		if result, err = s.swapTables(ctx, tx, p, pool); err != nil {
			return err
		}
		return journal.CheckComplete(ctx, tx, pool, result.Seq)
	})
	if err != nil {
		return result, fmt.Errorf("restore the old tables of %s: %w", p.Name, err)
	}
	return result, nil
}

// withLease calls do with the session of the lease, so that no rebuild runs meanwhile.
func withLease(
	ctx context.Context, config Config, p projections.Projection, do func(*pgx.Conn, schemas) error,
) error {
	lease, err := takeLease(ctx, config)
	if err != nil {
		return err
	}
	defer lease.Release()
	s, err := findSchemas(ctx, lease.Conn, p.Name)
	if err != nil {
		return err
	}
	return do(lease.Conn, s)
}
