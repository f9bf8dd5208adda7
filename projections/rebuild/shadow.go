package rebuild

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// schemas names the schemas of one projection.
type schemas struct {
	live   string // where the tables that serve are
	path   string // the search_path by which they are found
	shadow string // where a rebuild makes the new ones
	old    string // where the ones that served before are kept
}

// findSchemas derives the schemas from the one that a session works in.
func findSchemas(ctx context.Context, db events.Querier, projection string) (h schemas, err error) {
	if err := db.QueryRow(ctx, `SELECT current_schema(), current_setting('search_path')`).Scan(&h.live, &h.path); err != nil {
		return h, fmt.Errorf("find the live schema: %w", err)
	}
	h.shadow, h.old = schemaName(h.live, projection, "shadow"), schemaName(h.live, projection, "old")
	return h, nil
}

// schemaName is as short as Postgres wants it (63 bytes), and another one for every live schema and projection.
func schemaName(live, projection, kind string) string {
	const nameMax = 40
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%q%q", live, projection)
	name := strings.ToValidUTF8(projection[:min(nameMax, len(projection))], "")
	return fmt.Sprintf("%s_%s_%08x", name, kind, sum.Sum32())
}

// shadow is a projection whose new tables are being filled.
type shadow struct {
	projections.Projection
	schemas
	pool string
	conn *pgx.Conn // its unqualified names are the shadow's
	seq  atomic.Int64
}

// newShadow makes empty shadow tables, and a session that works on them. What an earlier run left is dropped.
func newShadow(ctx context.Context, config Config, db *pgx.Conn, p projections.Projection) (s *shadow, err error) {
	s = &shadow{Projection: p, pool: config.Pool.Name()}
	if s.schemas, err = findSchemas(ctx, db, p.Name); err != nil {
		return nil, err
	}
	if kept, err := schemaExists(ctx, db, s.old); err != nil || kept {
		if kept {
			err = fmt.Errorf("%w; go back to them with `stockstream projections restore-old %s`, or drop them with `stockstream projections drop-old %s`", ErrOldTablesKept, p.Name, p.Name)
		}
		return nil, err
	}
	if err := s.createSchema(ctx, db); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close(ctx)
			err = errors.Join(err, s.drop(ctx, db))
		}
	}()
	shadowed := config.Postgres.Copy()
	shadowed.RuntimeParams["search_path"] = quote(s.shadow) + ", " + s.path
	if s.conn, err = pgx.ConnectConfig(ctx, shadowed); err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	// The new tables are lost together with their checkpoint, and nothing reads them before the exchange.
	if _, err := s.conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
		return nil, err
	}
	if err := projections.CreateTables(ctx, s.conn, p); err != nil {
		return nil, err
	}
	if _, err := s.conn.Exec(ctx, `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0)`, p.Name, s.pool); err != nil {
		return nil, err
	}
	return s, s.checkDependents(ctx, db)
}

// createSchema makes the shadow schema, with bookkeeping tables that are empty, in the place of one that was left. There is
// no moment without it, in which a runner that lost its lease would find the live tables under the names of its own.
func (s *shadow) createSchema(ctx context.Context, db *pgx.Conn) error {
	shadow, live := quote(s.shadow), quote(s.live)
	_, err := db.Exec(ctx, `
		BEGIN;
		DROP SCHEMA IF EXISTS `+shadow+` CASCADE;
		CREATE SCHEMA `+shadow+`;
		CREATE TABLE `+shadow+`.checkpoints (LIKE `+live+`.checkpoints INCLUDING ALL);
		CREATE TABLE `+shadow+`.dead_letters (LIKE `+live+`.dead_letters INCLUDING ALL);
		COMMIT`)
	const forbidden = "42501"
	if fault := new(pgconn.PgError); errors.As(err, &fault) && fault.Code == forbidden {
		err = fmt.Errorf("a rebuild needs a schema of its own (GRANT CREATE ON DATABASE … TO the service's role): %w", err)
	}
	if err != nil {
		_, rollbackErr := db.Exec(ctx, `ROLLBACK`)
		return errors.Join(err, rollbackErr)
	}
	return nil
}

func (s *shadow) drop(ctx context.Context, db *pgx.Conn) error {
	_, err := db.Exec(ctx, `DROP SCHEMA IF EXISTS `+quote(s.shadow)+` CASCADE`)
	return err
}

func (s *shadow) close(ctx context.Context) {
	if s.conn != nil {
		_ = s.conn.Close(ctx) // nothing depends on a polite goodbye
	}
}

// analyse gathers the statistics that queries on the new tables are planned by.
func (s *shadow) analyse(ctx context.Context) error {
	for _, table := range s.Tables {
		if _, err := s.conn.Exec(ctx, `ANALYSE `+pgx.Identifier{s.shadow, table}.Sanitize()); err != nil {
			return fmt.Errorf("analyse %s: %w", table, err)
		}
	}
	return nil
}

func schemaExists(ctx context.Context, db events.Querier, schema string) (exists bool, err error) {
	err = db.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, quote(schema)).Scan(&exists)
	return exists, err
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
