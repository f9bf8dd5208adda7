package rebuild

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

// swapTables swaps the tables of the shadow schema in. The live tables must be locked,
// and there must be no old schema yet. It takes these steps:
//
//  1. Create the old schema, with copies of the live checkpoint and dead letters.
//  2. Move the live tables to the old schema and the new tables to the live schema.
//  3. Replace the live dead letters and the live checkpoint by those of the new tables.
//  4. Drop the shadow schema with the rest of its contents.
func (s schemas) swapTables(
	ctx context.Context, tx pgx.Tx, p projections.Projection, pool string,
) (Result, error) {
	result := Result{Projection: p.Name}
	query := `SELECT seq FROM ` + quote(s.shadow) + `.checkpoints WHERE projection = $1 AND pool = $2`
	if err := tx.QueryRow(ctx, query, p.Name, pool).Scan(&result.Seq); err != nil {
		return result, fmt.Errorf("read the checkpoint of the new tables: %w", err)
	}
	if err := s.createOldSchema(ctx, tx, p.Name); err != nil {
		return result, fmt.Errorf("create the schema of the old tables: %w", err)
	}
	for _, table := range p.Tables {
		if err := s.moveTable(ctx, tx, table); err != nil {
			return result, fmt.Errorf("move table %s: %w", table, err)
		}
	}
	var err error
	if result.Resolved, result.Parked, err = s.replaceDeadLetters(ctx, tx, p.Name, pool); err != nil {
		return result, err
	}
	const move = `UPDATE checkpoints SET seq = $3, updated_at = now() WHERE projection = $1 AND pool = $2 AND seq <> $3`
	if _, err := tx.Exec(ctx, move, p.Name, pool, result.Seq); err != nil {
		return result, fmt.Errorf("move the checkpoint: %w", err)
	}
	_, err = tx.Exec(ctx, `DROP SCHEMA `+quote(s.shadow)+` CASCADE`)
	return result, err
}

// createOldSchema creates the old schema and copies the live checkpoint and dead letters
// of the projection into it.
func (s schemas) createOldSchema(ctx context.Context, tx pgx.Tx, projection string) error {
	old := quote(s.old)
	for _, sql := range []string{
		`CREATE SCHEMA ` + old,
		`CREATE TABLE ` + old + `.checkpoints (LIKE checkpoints INCLUDING ALL)`,
		`CREATE TABLE ` + old + `.dead_letters (LIKE dead_letters INCLUDING ALL)`,
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	for _, sql := range []string{
		`INSERT INTO ` + old + `.checkpoints (projection, pool, seq) SELECT projection, pool, seq FROM checkpoints WHERE projection = $1`,
		`INSERT INTO ` + old + `.dead_letters OVERRIDING SYSTEM VALUE SELECT * FROM dead_letters WHERE source = $1`,
	} {
		if _, err := tx.Exec(ctx, sql, projection); err != nil {
			return err
		}
	}
	return nil
}

// moveTable moves a live table to the old schema, if it exists, and the new table to the
// live schema. The new table gets the owner and the grants of the live one.
func (s schemas) moveTable(ctx context.Context, tx pgx.Tx, table string) error {
	live := pgx.Identifier{s.live, table}.Sanitize()
	shadow := pgx.Identifier{s.shadow, table}.Sanitize()
	exists, err := tableExists(ctx, tx, live)
	if err != nil {
		return err
	}
	if exists {
		if _, err := tx.Exec(ctx, `ALTER TABLE `+live+` SET SCHEMA `+quote(s.old)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `ALTER TABLE `+shadow+` SET SCHEMA `+quote(s.live)); err != nil || !exists {
		return err
	}
	// The owner may lack rights on the shadow schema, so the rights come after the move.
	rows, err := tx.Query(ctx, copyRightsQuery, pgx.Identifier{s.old, table}.Sanitize(), live)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// copyRightsQuery returns the statements that give table $2 the grants and the owner of
// table $1. A grant on a column that table $2 lacks is left out. The change of owner
// comes last, because only the owner may grant.
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

// replaceDeadLetters replaces the live dead letters of the projection by those of the new
// tables. It resolves each parked live letter that the new tables have not parked: either
// they have applied its event, or the event comes after their checkpoint and is still to
// be applied.
func (s schemas) replaceDeadLetters(
	ctx context.Context, tx pgx.Tx, projection, pool string,
) (resolved, parked int64, err error) {
	letters := quote(s.shadow) + `.dead_letters`
	resolve, err := tx.Exec(ctx, `
		UPDATE dead_letters AS d SET status = 'resolved' WHERE source = $1 AND pool = $2 AND status = 'parked'
		AND NOT EXISTS (SELECT FROM `+letters+
		` AS n WHERE n.source = d.source AND n.pool = d.pool AND n.message_key = d.message_key AND n.status = 'parked')`,
		projection, pool)
	if err != nil {
		return 0, 0, fmt.Errorf("resolve dead letters: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO dead_letters AS d (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack,
		                               attempts, first_failed_at, last_failed_at, status)
		SELECT source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack,
		       attempts, first_failed_at, last_failed_at, status FROM `+letters+
		` WHERE source = $1 AND pool = $2 ORDER BY seq
		ON CONFLICT (source, pool, message_key) DO UPDATE SET
		    status = excluded.status, error = excluded.error, stack = excluded.stack,
		    attempts = d.attempts + (excluded.last_failed_at > d.last_failed_at)::integer,
		    last_failed_at = greatest(d.last_failed_at, excluded.last_failed_at)`, projection, pool)
	if err != nil {
		return 0, 0, fmt.Errorf("copy the dead letters of the new tables: %w", err)
	}
	const count = `SELECT count(*) FROM dead_letters WHERE source = $1 AND pool = $2 AND status = 'parked'`
	err = tx.QueryRow(ctx, count, projection, pool).Scan(&parked)
	return resolve.RowsAffected(), parked, err
}
