package rebuild

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
)

// compare returns the differences between the shadow tables and the live tables.
//
//  1. Open a snapshot of the live tables and read their checkpoints in it.
//  2. Read the digests of the live tables in the snapshot. Meanwhile, replay the shadow
//     tables to exactly those checkpoints, and read their digests.
//  3. Compare row by row the tables whose digests differ.
func (j *Job) compare(ctx context.Context) ([]TableDifference, error) {
	conn, err := j.connect(ctx, j.config.Postgres)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	live, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("compare: %w", err)
	}
	defer live.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // it has written nothing
	seqs, err := liveCheckpoints(ctx, live, j.shadows)
	if err != nil {
		return nil, err
	}
	var liveDigests, shadowDigests [][]tableDigest
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(worker.CatchPanic(func() (err error) {
		liveDigests, err = readDigests(groupCtx, j.shadows, func(s *shadow) (postgres.Querier, string) {
			return live, s.live
		})
		return err
	}))
	group.Go(worker.CatchPanic(func() error {
		if err := j.replay(groupCtx, j.shadows, seqs); err != nil {
			return err
		}
		var err error
		shadowDigests, err = readDigests(groupCtx, j.shadows, func(s *shadow) (postgres.Querier, string) {
			return s.conn, s.shadow
		})
		return err
	}))
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var differences []TableDifference
	for i, s := range j.shadows {
		for k, table := range s.Tables {
			d, err := s.compareTable(ctx, live, seqs[i], table, liveDigests[i][k], shadowDigests[i][k])
			if err != nil {
				return nil, fmt.Errorf("compare %s: %w", table, err)
			}
			if d.OnlyLive+d.OnlyNew+d.Changed > 0 || len(d.Lost) > 0 {
				differences = append(differences, d)
			}
		}
	}
	return differences, nil
}

// compareTable returns the difference of one table. Its counts are 0 if the digests are
// equal.
func (s *shadow) compareTable(
	ctx context.Context, live postgres.Querier, seq int64, table string, liveDigest, shadowDigest tableDigest,
) (d TableDifference, err error) {
	d = TableDifference{
		Projection: s.Name,
		Table:      table,
		Seq:        seq,
		LiveRows:   liveDigest.rows,
		NewRows:    shadowDigest.rows,
		First:      []RowDifference{},
	}
	if d.Lost, err = s.findLost(ctx, live, table); err != nil {
		return d, err
	}
	if liveDigest != shadowDigest {
		err = s.compareRows(ctx, live, &d)
	}
	return d, err
}

// findLost returns the indexes and columns that only the live table has. An operator may
// have added them by hand and rely on them.
func (s *shadow) findLost(ctx context.Context, live postgres.Querier, table string) ([]string, error) {
	const query = `
		WITH objects AS (
		    SELECT relnamespace, 'index ' || i.relname AS name FROM pg_index x JOIN pg_class c ON c.oid = indrelid
		    JOIN LATERAL (SELECT relname FROM pg_class WHERE oid = indexrelid) AS i ON true WHERE c.relname = $3
		    UNION ALL
		    SELECT relnamespace, 'column ' || attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		    WHERE relname = $3 AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p')
		)
		SELECT name FROM objects WHERE relnamespace = $1::text::regnamespace
		EXCEPT SELECT name FROM objects WHERE relnamespace = $2::text::regnamespace ORDER BY 1`
	rows, err := live.Query(ctx, query, quote(s.live), quote(s.shadow), table)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// tableDigest is the row count of a table and the sum of its row hashes, which do not
// depend on the order of the rows.
type tableDigest struct {
	rows int64
	sum  string
}

// readDigests returns the digests of all tables of each shadow. at returns the session
// and the schema to read a shadow's tables with.
func readDigests(
	ctx context.Context, shadows []*shadow, at func(*shadow) (postgres.Querier, string),
) ([][]tableDigest, error) {
	digests := make([][]tableDigest, len(shadows))
	for i, s := range shadows {
		db, schema := at(s)
		for _, table := range s.Tables {
			d, err := readDigest(ctx, db, schema, table)
			if err != nil {
				return nil, err
			}
			digests[i] = append(digests[i], d)
		}
	}
	return digests, nil
}

// readDigest returns the digest of a table. A table that does not exist counts as empty.
func readDigest(ctx context.Context, db postgres.Querier, schema, table string) (d tableDigest, err error) {
	name := pgx.Identifier{schema, table}.Sanitize()
	exists, err := tableExists(ctx, db, name)
	if err != nil || !exists {
		return d, err
	}
	// Hashing a row costs a third of hashing its text, but a type such as json has no
	// hash.
	var hashable bool
	const allHashable = `
		SELECT NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
		    AND NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = opcmethod WHERE amname = 'hash' AND opcdefault AND opcintype = atttypid)
		    AND atttypid <> 'varchar'::regtype)`
	if err := db.QueryRow(ctx, allHashable, name).Scan(&hashable); err != nil {
		return d, fmt.Errorf("read the digest of %s: %w", table, err)
	}
	hash := `hash_record_extended(t, 0)`
	if !hashable {
		hash = `hashtextextended(t::text, 0)`
	}
	query := `SELECT count(*), coalesce(sum(` + hash + `), 0)::text FROM ` + name + ` AS t`
	if err := db.QueryRow(ctx, query).Scan(&d.rows, &d.sum); err != nil {
		return d, fmt.Errorf("read the digest of %s: %w", table, err)
	}
	return d, nil
}
