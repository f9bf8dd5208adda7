package postgres

import (
	"context"
	"time"

	"fmt"

	"github.com/jackc/pgx/v5"
)

// connectTimeout counts where the database URL says nothing (?connect_timeout=…).
const connectTimeout = 10 * time.Second

// Connect opens a session that may be waited for, and gives up in time.
func Connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	config = config.Copy()
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	return pgx.ConnectConfig(ctx, config)
}

// Querier is what a single query needs: a pool, a connection or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// QuoteIdentifier quotes a name for SQL.
func QuoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

func TableExists(ctx context.Context, db Querier, name string) (here bool, err error) {
	if err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, QuoteIdentifier(name)).Scan(&here); err != nil {
		return false, fmt.Errorf("look for table %s: %w", name, err)
	}
	return here, nil
}

const LockNotAvailable = "55P03" // Postgres's code for a lock that was not had in time
