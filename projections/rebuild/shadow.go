package rebuild

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/projections"
)

// shadow is a projection whose new tables are filled in the shadow schema.
type shadow struct {
	projections.Projection
	schemas
	pool string
	conn *pgx.Conn // its search_path begins with the shadow schema
	seq  atomic.Int64
}

// newShadow creates the shadow schema, without tables yet. It drops a shadow schema that
// an earlier run left behind. If it fails, there is no new schema.
func newShadow(
	ctx context.Context, config Config, db *pgx.Conn, p projections.Projection,
) (s *shadow, err error) {
	s = &shadow{Projection: p, pool: config.Pool.Name()}
	if s.schemas, err = findSchemas(ctx, db, p.Name); err != nil {
		return nil, err
	}
	kept, err := schemaExists(ctx, db, s.old)
	if err != nil {
		return nil, err
	}
	if kept {
		const format = "%w; restore them with `stockstream projections restore-old %s`, or drop them with `stockstream projections drop-old %s`"
		return nil, fmt.Errorf(format, ErrOldTablesKept, p.Name, p.Name)
	}
	return s, s.createSchema(ctx, db)
}

// open opens the session of the shadow and creates its tables.
func (s *shadow) open(ctx context.Context, j *Job) error {
	var err error
	config := j.config.Postgres.Copy()
	config.RuntimeParams["search_path"] = quote(s.shadow) + ", " + s.path
	if s.conn, err = j.connect(ctx, config); err != nil {
		return err
	}
	// A crash of Postgres may lose the latest transactions, but it loses rows and
	// checkpoint together, and nothing reads the new tables before the swap.
	if _, err := s.conn.Exec(ctx, `SET synchronous_commit = off`); err != nil {
		return err
	}
	if err := projections.CreateTables(ctx, s.conn, s.Projection); err != nil {
		return err
	}
	const begin = `INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $2, 0)`
	if _, err := s.conn.Exec(ctx, begin, s.Name, s.pool); err != nil {
		return err
	}
	return s.checkDependents(ctx, j.lease.Conn)
}

// createSchema replaces the shadow schema by a new one with an empty checkpoints table
// and an empty dead_letters table. It does so in one transaction: without the schema,
// another rebuild that has lost its lease but still runs would find the live tables in
// its search_path.
func (s *shadow) createSchema(ctx context.Context, db *pgx.Conn) error {
	shadow := quote(s.shadow)
	live := quote(s.live)
	_, err := db.Exec(ctx, `
		BEGIN;
		DROP SCHEMA IF EXISTS `+shadow+` CASCADE;
		CREATE SCHEMA `+shadow+`;
		CREATE TABLE `+shadow+`.checkpoints (LIKE `+live+`.checkpoints INCLUDING ALL);
		CREATE TABLE `+shadow+`.dead_letters (LIKE `+live+`.dead_letters INCLUDING ALL);
		COMMIT`)
	if postgres.IsCode(err, postgres.InsufficientPrivilege) {
		err = fmt.Errorf("cannot create the shadow schema; GRANT CREATE ON DATABASE … TO the service's role: %w", err)
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
		_ = s.conn.Close(ctx) // its transactions have been committed
	}
}

// analyse gathers planner statistics for the new tables, so that the first queries after
// the swap have good plans.
func (s *shadow) analyse(ctx context.Context) error {
	for _, table := range s.Tables {
		if _, err := s.conn.Exec(ctx, `ANALYSE `+pgx.Identifier{s.shadow, table}.Sanitize()); err != nil {
			return fmt.Errorf("analyse %s: %w", table, err)
		}
	}
	return nil
}
