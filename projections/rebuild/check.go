package rebuild

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/projections"
)

// checkJournal checks that the journal has every event from seq 1 to its checkpoint. It
// fails with journal.ErrDetached or journal.ErrHole otherwise. It counts the events,
// which is much faster than reading them.
func checkJournal(ctx context.Context, db postgres.Querier, pool string) error {
	// CheckComplete names the partitions to attach, so its error comes first.
	if err := journal.CheckComplete(ctx, db, pool, 0); err != nil {
		return err
	}
	const query = `
		SELECT coalesce(min(seq), 1), coalesce(max(seq), 0), count(*),
		       coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0)
		FROM events WHERE pool = $1`
	var first, last, count, checkpoint int64
	row := db.QueryRow(ctx, query, pool, journal.CheckpointName)
	if err := row.Scan(&first, &last, &count, &checkpoint); err != nil {
		return fmt.Errorf("check the journal for holes: %w", err)
	}
	switch {
	case first != 1:
		return fmt.Errorf("%w: the journal begins at seq %d, not at 1", journal.ErrHole, first)
	case count != last:
		return fmt.Errorf("%w: the journal ends at seq %d, but has %d events", journal.ErrHole, last, count)
	case last < checkpoint:
		return fmt.Errorf("%w: the journal ends at seq %d, but its checkpoint is %d",
			journal.ErrHole, last, checkpoint)
	}
	return nil
}

// checkOnlyPool fails with ErrOtherPools if another pool is in the read tables of the
// projections. A swap replaces whole tables, and a rebuild replays one pool, so the rows
// of the others would be lost.
func checkOnlyPool(
	ctx context.Context, db postgres.Querier, pool string, list ...projections.Projection,
) error {
	const query = `
		SELECT coalesce(string_agg(DISTINCT pool, ', '), '') FROM checkpoints
		WHERE projection = ANY ($1) AND pool <> $2 AND seq > 0`
	var others string
	if err := db.QueryRow(ctx, query, projections.Names(list), pool).Scan(&others); err != nil {
		return fmt.Errorf("look for other pools: %w", err)
	}
	if others != "" {
		return fmt.Errorf("%w: a rebuild of pool %s would lose those of %s", ErrOtherPools, pool, others)
	}
	return nil
}

// checkDependents fails with ErrDependents if objects that the projection does not create
// depend on the live tables. After the swap, they would still refer to the old tables,
// and DropOld would drop them. Triggers and policies count only if the new tables lack
// them.
func (s *shadow) checkDependents(ctx context.Context, db postgres.Querier) error {
	const query = `
		WITH live AS (SELECT c.oid, relname FROM pg_class c WHERE relnamespace = $1::text::regnamespace AND relname = ANY($3) AND relkind IN ('r', 'p')),
		     own  AS (SELECT c.oid, relname FROM pg_class c WHERE relnamespace = $2::text::regnamespace AND relname = ANY($3))
		SELECT 'view ' || r.ev_class::regclass FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN live ON live.oid = d.refobjid
		WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND r.ev_class <> live.oid
		UNION SELECT 'rule ' || rulename || ' on ' || relname FROM pg_rewrite JOIN live ON live.oid = ev_class
		UNION SELECT 'function ' || d.objid::regprocedure FROM pg_depend d JOIN live ON live.oid = d.refobjid
		WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
		UNION SELECT 'foreign key ' || conname || ' of ' || conrelid::regclass FROM pg_constraint JOIN live ON live.oid = confrelid
		WHERE contype = 'f' AND conrelid NOT IN (SELECT oid FROM live)
		UNION SELECT 'trigger ' || tgname || ' on ' || relname FROM pg_trigger JOIN live ON live.oid = tgrelid
		WHERE NOT tgisinternal AND NOT EXISTS (SELECT FROM pg_trigger t JOIN own ON own.oid = t.tgrelid WHERE t.tgname = pg_trigger.tgname)
		UNION SELECT 'policy ' || polname || ' on ' || relname FROM pg_policy JOIN live ON live.oid = polrelid
		WHERE NOT EXISTS (SELECT FROM pg_policy p JOIN own ON own.oid = p.polrelid WHERE p.polname = pg_policy.polname)
		UNION SELECT 'publication ' || pubname || ' of ' || relname FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN live ON live.oid = r.prrelid
		UNION SELECT 'table ' || inhrelid::regclass || ', which inherits from ' || relname FROM pg_inherits JOIN live ON live.oid = inhparent
		WHERE inhrelid NOT IN (SELECT oid FROM live)
		ORDER BY 1`
	rows, err := db.Query(ctx, query, quote(s.live), quote(s.shadow), s.Tables)
	if err != nil {
		return fmt.Errorf("list the dependents of the live tables: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the dependents of the live tables: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: %s; drop them before the rebuild and create them again after it",
			ErrDependents, strings.Join(found, ", "))
	}
	return nil
}
