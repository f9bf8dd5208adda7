package rebuild

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
)

// checkJournal fails with events.ErrDetached or events.ErrHole unless the journal has every event from the first to its
// checkpoint. It counts them, which takes a fraction of the time of reading them.
func checkJournal(ctx context.Context, db postgres.Querier, pool string) error {
	if err := journal.CheckComplete(ctx, db, pool, 0); err != nil { // it is cheap, and knows of detached parts
		return err
	}
	const query = `
		SELECT coalesce(min(seq), 1), coalesce(max(seq), 0), count(*),
		       coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0)
		FROM events WHERE pool = $1`
	var first, last, count, checkpoint int64
	if err := db.QueryRow(ctx, query, pool, journal.CheckpointName).Scan(&first, &last, &count, &checkpoint); err != nil {
		return fmt.Errorf("look for holes in the journal: %w", err)
	}
	switch {
	case first != 1:
		return fmt.Errorf("%w: the journal begins at seq %d", journal.ErrHole, first)
	case count != last:
		return fmt.Errorf("%w: the journal ends at seq %d and has %d events", journal.ErrHole, last, count)
	case last < checkpoint:
		return fmt.Errorf("%w: the journal ends at seq %d, its checkpoint says %d", journal.ErrHole, last, checkpoint)
	}
	return nil
}

// checkDependents fails with ErrDependents where something that is not the projection's own hangs on the live tables:
// it would go on looking at the old ones, or be lost with them.
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
		return fmt.Errorf("look for dependents: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for dependents: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: %s; drop it first, and make it again afterwards", ErrDependents, strings.Join(found, ", "))
	}
	return nil
}
