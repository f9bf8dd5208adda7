package projections

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// Beginner begins a transaction. A connection, a pool of connections and a transaction
// are Beginners.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// CreateTables creates the missing tables of projections by running their Schema. Any
// number of processes may call it at the same time, and repeatedly. For each projection:
//
//   - If all its tables exist, CreateTables makes those of its Upgrades that workers of
//     older builds can live with. Any other change of Schema takes effect with a rebuild.
//   - If none exists, it creates them and deletes the checkpoint, so that the projection
//     starts at the first event.
//   - If only some exist, it returns an error that tells the operator to rebuild the
//     projection.
func CreateTables(ctx context.Context, db Beginner, list ...Projection) error {
	for _, p := range list {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return createTables(ctx, tx, p) })
		if err != nil {
			return fmt.Errorf("tables of projection %s: %w", p.Name, err)
		}
		if err := upgrade(ctx, db, p, false); err != nil {
			return err
		}
	}
	return nil
}

// prepareTables is CreateTables for the worker of a projection, which has its lease. It
// makes all Upgrades.
func prepareTables(ctx context.Context, db Beginner, p Projection) error {
	if err := CreateTables(ctx, db, p); err != nil {
		return err
	}
	return upgrade(ctx, db, p, true)
}

func createTables(ctx context.Context, tx pgx.Tx, p Projection) error {
	missing, err := missingTables(ctx, tx, p.Tables)
	if err != nil || len(missing) == 0 {
		return err
	}
	// The lock is needed although Schema says IF NOT EXISTS: two sessions that create the
	// same table at the same moment still collide.
	const lock = `SELECT pg_advisory_xact_lock(` + postgres.LockKey + `)`
	if _, err := tx.Exec(ctx, lock, postgres.TablesLock(p.Name)); err != nil {
		return err
	}
	missing, err = missingTables(ctx, tx, p.Tables)
	if err != nil || len(missing) == 0 {
		return err
	}
	if len(missing) < len(p.Tables) {
		// The projection can neither continue nor start from the first event.
		return fmt.Errorf("some of its tables are missing (%s); create them with: stockstream projections rebuild %s",
			strings.Join(missing, ", "), p.Name)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM checkpoints WHERE projection = $1`, p.Name); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, p.Schema); err != nil {
		return err
	}
	missing, err = missingTables(ctx, tx, p.Tables)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("its Schema does not create %s", strings.Join(missing, ", "))
	}
	return nil
}

// missingTables returns the tables that do not exist in the current schema.
func missingTables(ctx context.Context, tx pgx.Tx, tables []string) ([]string, error) {
	const query = `
		SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS n (name, nr)
		WHERE to_regclass(quote_ident(current_schema()) || '.' || quote_ident(name)) IS NULL ORDER BY nr`
	rows, err := tx.Query(ctx, query, tables)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// DropTables drops the tables of projections and deletes their checkpoints.
func DropTables(ctx context.Context, db Beginner, list ...Projection) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, p := range list {
			for _, table := range p.Tables {
				drop := `DROP TABLE IF EXISTS ` + pgx.Identifier{table}.Sanitize()
				if _, err := tx.Exec(ctx, drop); err != nil {
					return fmt.Errorf("drop table %s: %w", table, err)
				}
			}
		}
		haveCheckpoints, err := postgres.TableExists(ctx, tx, "checkpoints")
		if err != nil || !haveCheckpoints {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM checkpoints WHERE projection = ANY($1)`, Names(list))
		return err
	})
}
