package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// queryOne reads the one row of a query into a struct; the columns are in the order of
// its fields. It returns ErrNotFound if there is no row.
func queryOne[T any](
	ctx context.Context, db postgres.Querier, operation, query string, args ...any,
) (found T, err error) {
	rows, err := db.Query(ctx, query, args...)
	if err == nil {
		found, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
	}
	return found, queryError(operation, err)
}

// queryAll reads the rows of a query into structs; the columns are in the order of their
// fields.
func queryAll[T any](
	ctx context.Context, db postgres.Querier, operation, query string, args ...any,
) (found []T, err error) {
	rows, err := db.Query(ctx, query, args...)
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	}
	return found, queryError(operation, err)
}

// queryError translates the error of a query into ErrNotFound or ErrTableMissing if it is
// one of them, and adds the operation to any other.
func queryError(operation string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case postgres.IsCode(err, postgres.UndefinedTable):
		return fmt.Errorf("%s: %w: %w", operation, ErrTableMissing, err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}
