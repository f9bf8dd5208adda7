// Package postgres holds the small facts about Postgres that several packages need: how
// to connect (here), the codes of its errors (sqlstate.go) and the numbers of our
// advisory locks (lockkeys.go). It imports nothing of ours. Its functions keep no state
// and are safe for concurrent use, as far as the connection passed to them is.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// connectTimeout applies if the database URL sets no connect_timeout.
const connectTimeout = 10 * time.Second

// Connect opens a session. It always gives up after a time: connectTimeout, or the URL's
// own.
func Connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	config = config.Copy()
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	return pgx.ConnectConfig(ctx, config)
}

// Querier runs a query: a pool, a connection or a transaction.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// QuoteIdentifier quotes a name for SQL.
func QuoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// TableExists reports whether the search path of db has a table of this name.
func TableExists(ctx context.Context, db Querier, name string) (exists bool, err error) {
	const query = `SELECT to_regclass($1) IS NOT NULL`
	if err := db.QueryRow(ctx, query, QuoteIdentifier(name)).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for table %s: %w", name, err)
	}
	return exists, nil
}
