package projections

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrTablesGone is returned for a projection that has some of its tables and lacks others, so that it can neither go on
// nor begin.
var ErrTablesGone = errors.New("some of its tables are gone")

// Beginner is what a transaction is begun on: a connection, a pool, or a transaction.
type Beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// CreateTables makes the tables of projections that have none yet, by running their Schema. Where all tables of a
// projection are there, nothing is done: what is changed in a Schema later comes with a rebuild. A projection none of
// whose tables are there begins at the first event, whatever its checkpoint said; one that has lost only some of them
// is refused with ErrTablesGone. Any number of processes may do this at once, and again.
func CreateTables(ctx context.Context, db Beginner, list ...Projection) error {
	for _, p := range list {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return createTables(ctx, tx, p) })
		if err != nil {
			return fmt.Errorf("tables of projection %s: %w", p.Name, err)
		}
	}
	return nil
}

func createTables(ctx context.Context, tx pgx.Tx, p Projection) error {
	missing, err := missingTables(ctx, tx, p.Tables)
	if err != nil || len(missing) == 0 {
		return err
	}
	// IF NOT EXISTS does not keep two sessions from making the same table at the same moment.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('stockstream/' || current_schema() || '/tables/' || $1, 0))`, p.Name); err != nil {
		return err
	}
	if missing, err = missingTables(ctx, tx, p.Tables); err != nil || len(missing) == 0 {
		return err
	}
	if len(missing) < len(p.Tables) {
		return fmt.Errorf("%w (%s); make them anew: stockstream projections rebuild %s", ErrTablesGone, strings.Join(missing, ", "), p.Name)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM checkpoints WHERE projection = $1`, p.Name); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, p.Schema); err != nil {
		return err
	}
	if missing, err = missingTables(ctx, tx, p.Tables); err == nil && len(missing) > 0 {
		err = fmt.Errorf("its Schema does not make %s", strings.Join(missing, ", "))
	}
	return err
}

// missingTables returns which of the tables are not in the current schema.
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

// DropTables throws the tables of projections away, and their checkpoints with them.
func DropTables(ctx context.Context, db Beginner, list ...Projection) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, p := range list {
			for _, table := range p.Tables {
				if _, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+pgx.Identifier{table}.Sanitize()); err != nil {
					return fmt.Errorf("drop table %s: %w", table, err)
				}
			}
		}
		var recorded bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass('checkpoints') IS NOT NULL`).Scan(&recorded); err != nil || !recorded {
			return err
		}
		_, err := tx.Exec(ctx, `DELETE FROM checkpoints WHERE projection = ANY($1)`, Names(list))
		return err
	})
}
