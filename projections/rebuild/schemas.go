package rebuild

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// schemas are the names of the three schemas of one projection's tables.
type schemas struct {
	live   string // the tables that serve
	path   string // the search_path that finds the live tables
	shadow string // the tables that a rebuild fills
	old    string // the tables that served before the last swap
}

// findSchemas derives the names of the schemas from the current schema of the session.
func findSchemas(ctx context.Context, db postgres.Querier, projection string) (s schemas, err error) {
	row := db.QueryRow(ctx, `SELECT current_schema(), current_setting('search_path')`)
	if err := row.Scan(&s.live, &s.path); err != nil {
		return s, fmt.Errorf("find the live schema: %w", err)
	}
	s.shadow = schemaName(s.live, projection, "shadow")
	s.old = schemaName(s.live, projection, "old")
	return s, nil
}

// schemaName returns a schema name that differs for each live schema, projection and
// kind, and that fits into the 63 bytes of a Postgres identifier.
func schemaName(live, projection, kind string) string {
	const nameMax = 40
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%q%q", live, projection)
	name := strings.ToValidUTF8(projection[:min(nameMax, len(projection))], "")
	return fmt.Sprintf("%s_%s_%08x", name, kind, sum.Sum32())
}

func schemaExists(ctx context.Context, db postgres.Querier, schema string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, quote(schema)).Scan(&exists)
	return exists, err
}

// tableExists reports whether a table exists. The name must be quoted and have its
// schema.
func tableExists(ctx context.Context, db postgres.Querier, name string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists)
	return exists, err
}

// quote returns the name of a schema as SQL needs it.
func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
