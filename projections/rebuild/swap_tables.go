package rebuild

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

// swapTables puts the tables that stand in a schema of ours, with a checkpoint and dead letters beside them, in the place of
// the live ones, and those, with theirs, into the schema of old tables, which must not be there. The live tables must
// be locked. Everything else in the schema that the new tables came from is dropped with it.
func (h schemas) swapTables(ctx context.Context, tx pgx.Tx, p projections.Projection, pool, from string) (Result, error) {
	outcome := Result{Projection: p.Name}
	if err := tx.QueryRow(ctx, `SELECT seq FROM `+quote(from)+`.checkpoints WHERE projection = $1 AND pool = $2`, p.Name, pool).Scan(&outcome.Seq); err != nil {
		return outcome, fmt.Errorf("read the checkpoint of the new tables: %w", err)
	}
	if err := h.createOldSchema(ctx, tx, p.Name); err != nil {
		return outcome, err
	}
	for _, table := range p.Tables {
		if err := h.moveTable(ctx, tx, table, from); err != nil {
			return outcome, fmt.Errorf("move table %s: %w", table, err)
		}
	}
	var err error
	if outcome.Resolved, outcome.Parked, err = replaceDeadLetters(ctx, tx, p.Name, pool, from); err != nil {
		return outcome, err
	}
	const move = `UPDATE checkpoints SET seq = $3, updated_at = now() WHERE projection = $1 AND pool = $2 AND seq <> $3`
	if _, err := tx.Exec(ctx, move, p.Name, pool, outcome.Seq); err != nil {
		return outcome, fmt.Errorf("move the checkpoint: %w", err)
	}
	_, err = tx.Exec(ctx, `DROP SCHEMA `+quote(from)+` CASCADE`)
	return outcome, err
}

// createOldSchema makes the schema for the old tables, with the checkpoint at which they stand and the letters as they are.
func (h schemas) createOldSchema(ctx context.Context, tx pgx.Tx, projection string) error {
	old := quote(h.old)
	for _, sql := range []string{
		`CREATE SCHEMA ` + old,
		`CREATE TABLE ` + old + `.checkpoints (LIKE checkpoints INCLUDING ALL)`,
		`CREATE TABLE ` + old + `.dead_letters (LIKE dead_letters INCLUDING ALL)`,
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("keep the old tables: %w", err)
		}
	}
	for _, sql := range []string{
		`INSERT INTO ` + old + `.checkpoints (projection, pool, seq) SELECT projection, pool, seq FROM checkpoints WHERE projection = $1`,
		`INSERT INTO ` + old + `.dead_letters OVERRIDING SYSTEM VALUE SELECT * FROM dead_letters WHERE source = $1`,
	} {
		if _, err := tx.Exec(ctx, sql, projection); err != nil {
			return fmt.Errorf("keep the old tables: %w", err)
		}
	}
	return nil
}

// moveTable puts one table in the place of a live one, with its owner and its grants.
func (h schemas) moveTable(ctx context.Context, tx pgx.Tx, table, from string) error {
	live, coming := pgx.Identifier{h.live, table}.Sanitize(), pgx.Identifier{from, table}.Sanitize()
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, live).Scan(&exists); err != nil {
		return err
	}
	var sql []string
	if exists {
		rows, err := tx.Query(ctx, copyRightsQuery, live, coming)
		if err != nil {
			return err
		}
		if sql, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		sql = append(sql, `ALTER TABLE `+live+` SET SCHEMA `+quote(h.old))
	}
	for _, statement := range append(sql, `ALTER TABLE `+coming+` SET SCHEMA `+quote(h.live)) {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// copyRightsQuery returns the statements that give the table $2 the grants and the owner of the table $1. The owner comes last,
// since only an owner may grant.
const copyRightsQuery = `
	WITH old AS (SELECT oid, relacl, relowner FROM pg_class WHERE oid = $1::text::regclass),
	     new AS (SELECT oid, relowner FROM pg_class WHERE oid = $2::text::regclass),
	     grants AS (
	         SELECT a.*, NULL::name AS attname FROM old, aclexplode(relacl) AS a WHERE a.grantee <> relowner
	         UNION ALL
	         SELECT a.*, c.attname FROM old JOIN pg_attribute c ON attrelid = old.oid, aclexplode(attacl) AS a
	         WHERE EXISTS (SELECT FROM new JOIN pg_attribute n ON n.attrelid = new.oid WHERE n.attname = c.attname AND NOT n.attisdropped)
	     )
	SELECT statement FROM (
	    SELECT 1, format('GRANT %s%s ON %s TO %s%s', privilege_type, format(' (%I)', attname), $2::text,
	                     CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
	                     CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
	    FROM grants WHERE attname IS NOT NULL
	    UNION ALL
	    SELECT 1, format('GRANT %s ON %s TO %s%s', privilege_type, $2::text,
	                     CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
	                     CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
	    FROM grants WHERE attname IS NULL
	    UNION ALL
	    SELECT 2, format('ALTER TABLE %s OWNER TO %I', $2::text, pg_get_userbyid(old.relowner))
	    FROM old, new WHERE old.relowner <> new.relowner
	) AS statements (nr, statement) ORDER BY nr`

// replaceDeadLetters makes the projection's dead letters those that came with the new tables. A parked letter that these do
// not have was applied by the run that filled them, or will be looked at again: it is resolved.
func replaceDeadLetters(ctx context.Context, tx pgx.Tx, projection, pool, from string) (resolved, parked int64, err error) {
	letters := quote(from) + `.dead_letters`
	resolve, err := tx.Exec(ctx, `
		UPDATE dead_letters AS d SET status = 'resolved' WHERE source = $1 AND pool = $2 AND status = 'parked'
		AND NOT EXISTS (SELECT FROM `+letters+` AS n WHERE n.source = d.source AND n.message_key = d.message_key AND n.status = 'parked')`,
		projection, pool)
	if err != nil {
		return 0, 0, fmt.Errorf("resolve dead letters: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO dead_letters AS d (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack,
		                               attempts, first_failed_at, last_failed_at, status)
		SELECT source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack,
		       attempts, first_failed_at, last_failed_at, status FROM `+letters+` WHERE source = $1 AND pool = $2 ORDER BY seq
		ON CONFLICT (source, message_key) DO UPDATE SET
		    status = excluded.status, error = excluded.error, stack = excluded.stack,
		    attempts = d.attempts + (excluded.last_failed_at > d.last_failed_at)::integer,
		    last_failed_at = greatest(d.last_failed_at, excluded.last_failed_at)`, projection, pool)
	if err != nil {
		return 0, 0, fmt.Errorf("take over dead letters: %w", err)
	}
	const count = `SELECT count(*) FROM dead_letters WHERE source = $1 AND pool = $2 AND status = 'parked'`
	err = tx.QueryRow(ctx, count, projection, pool).Scan(&parked)
	return resolve.RowsAffected(), parked, err
}
