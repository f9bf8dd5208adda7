package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/projections"
)

// ErrNoOldTables is returned where there is nothing to drop, or to go back to.
var ErrNoOldTables = errors.New("no old tables are kept")

// DropOld drops the tables that a rebuild of the projection replaced, and what an interrupted one may have left. It
// fails with ErrNoOldTables where there are none, and with ErrBusy while a rebuild runs.
func DropOld(ctx context.Context, config Config, p projections.Projection) error {
	return withLease(ctx, config, p, func(conn *pgx.Conn, h schemas) error {
		kept, err := schemaExists(ctx, conn, h.old)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `DROP SCHEMA IF EXISTS `+quote(h.shadow)+`, `+quote(h.old)+` CASCADE`); err != nil {
			return fmt.Errorf("drop the old tables of %s: %w", p.Name, err)
		}
		if !kept {
			return fmt.Errorf("projection %s: %w", p.Name, ErrNoOldTables)
		}
		return nil
	})
}

// RestoreOld puts the old tables back in their place, with the checkpoint at which they stood and the dead letters of
// then; the live line goes on from there. What served until now is kept as the old tables, so that this can be undone
// in the same way. It fails with ErrNoOldTables, with ErrBusy, and with events.ErrDetached or events.ErrHole where the
// journal no longer has what the old tables lack.
func RestoreOld(ctx context.Context, config Config, p projections.Projection) (outcome Result, err error) {
	err = withLease(ctx, config, p, func(conn *pgx.Conn, h schemas) error {
		kept, err := schemaExists(ctx, conn, h.old)
		switch {
		case err != nil:
			return err
		case !kept:
			return fmt.Errorf("projection %s: %w", p.Name, ErrNoOldTables)
		}
		for try := range lockAttempts {
			if outcome, err = h.tryRestore(ctx, conn, p, config.Pool.Name()); err == nil || !isRetryable(err) {
				return err
			}
			if err := wait.For(ctx, time.Duration(try+1)*lockPause); err != nil {
				return err
			}
		}
		return fmt.Errorf("somebody holds the tables for long: %w", err)
	})
	return outcome, err
}

func (h schemas) tryRestore(ctx context.Context, conn *pgx.Conn, p projections.Projection, pool string) (outcome Result, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := h.lockLiveTables(ctx, tx, p.Tables, p.Name, pool); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DROP SCHEMA IF EXISTS `+quote(h.shadow)+` CASCADE`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `ALTER SCHEMA `+quote(h.old)+` RENAME TO `+quote(h.shadow)); err != nil {
			return err
		}
		if outcome, err = h.swapTables(ctx, tx, p, pool, h.shadow); err != nil {
			return err
		}
		return events.CheckWhole(ctx, tx, pool, outcome.Seq)
	})
	if err != nil {
		return outcome, fmt.Errorf("restore the old tables of %s: %w", p.Name, err)
	}
	return outcome, nil
}

// withLease does something to a projection's tables while no rebuild can run.
func withLease(ctx context.Context, config Config, p projections.Projection, do func(*pgx.Conn, schemas) error) error {
	lease, err := takeLease(ctx, config)
	if err != nil {
		return err
	}
	defer lease.Release()
	h, err := findSchemas(ctx, lease.Conn, p.Name)
	if err != nil {
		return err
	}
	return do(lease.Conn, h)
}
