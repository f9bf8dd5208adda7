package rebuild

import (
	"context"
	"encoding/json"

	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
)

// TableDifference says how a new table differs from the live one when both have come to the same seq.
type TableDifference struct {
	Projection string `json:"projection"`
	Table      string `json:"table"`
	Seq        int64  `json:"seq"`
	LiveRows   int64  `json:"live_rows"`
	NewRows    int64  `json:"new_rows"`
	// OnlyLive, OnlyNew and Changed count keys: gone, come, and with another row.
	OnlyLive int64 `json:"only_live"`
	OnlyNew  int64 `json:"only_new"`
	Changed  int64 `json:"changed"`
	// First are the first keys that differ, by their text.
	First []RowDifference `json:"first"`
	// Lost are indexes and the like of the live table that the new one does not have.
	Lost []string `json:"lost,omitempty"`
}

// RowDifference is one key whose rows differ. Live or New is null where there is no row.
type RowDifference struct {
	Key  string          `json:"key"`
	Live json.RawMessage `json:"live"`
	New  json.RawMessage `json:"new"`
}

// DifferencesError is the ErrDiffers that a rebuild stops with.
type DifferencesError struct{ Differences []TableDifference }

func (e *DifferencesError) Error() string {
	parts := make([]string, len(e.Differences))
	for i, d := range e.Differences {
		parts[i] = d.String()
	}
	return fmt.Sprintf("%s: %s", ErrDiffers, strings.Join(parts, "; "))
}

// Is makes the error match ErrDiffers.
func (e *DifferencesError) Is(target error) bool { return target == ErrDiffers }

// String tells the counts.
func (d TableDifference) String() string {
	text := fmt.Sprintf("%s at seq %d: %d rows live, %d new; %d changed, %d only live, %d only new",
		d.Table, d.Seq, d.LiveRows, d.NewRows, d.Changed, d.OnlyLive, d.OnlyNew)
	if len(d.Lost) > 0 {
		text += "; the new table lacks " + strings.Join(d.Lost, ", ")
	}
	return text
}

// tableDigest is what a table comes to, in whatever order its rows lie.
type tableDigest struct {
	rows int64
	sum  string
}

// readDigest counts and sums a table, given with its schema. One that is not there is as one without rows.
func readDigest(ctx context.Context, db events.Querier, schema, table string) (d tableDigest, err error) {
	name := pgx.Identifier{schema, table}.Sanitize()
	var exists bool
	if err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil || !exists {
		return d, err
	}
	// Hashing a row as it is costs a third of hashing its text, which is what is left for columns without a hash: json.
	var hashable bool
	const look = `
		SELECT NOT EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
		    AND NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = opcmethod WHERE amname = 'hash' AND opcdefault AND opcintype = atttypid)
		    AND atttypid <> 'varchar'::regtype)`
	if err := db.QueryRow(ctx, look, name).Scan(&hashable); err != nil {
		return d, fmt.Errorf("sum up %s: %w", table, err)
	}
	hash := `hash_record_extended(t, 0)`
	if !hashable {
		hash = `hashtextextended(t::text, 0)`
	}
	query := `SELECT count(*), coalesce(sum(` + hash + `), 0)::text FROM ` + name + ` AS t`
	if err := db.QueryRow(ctx, query).Scan(&d.rows, &d.sum); err != nil {
		return d, fmt.Errorf("sum up %s: %w", table, err)
	}
	return d, nil
}

// compare looks at all live tables in one snapshot, brings the shadows to the very seqs at which it found them, and
// returns what differs.
func (j *Job) compare(ctx context.Context) ([]TableDifference, error) {
	conn, err := pgx.ConnectConfig(ctx, j.config.Postgres.Copy())
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
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
	var old, now [][]tableDigest
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		old, err = j.readDigests(groupCtx, func(*shadow) events.Querier { return live }, func(s *shadow) string { return s.live })
		return err
	})
	group.Go(func() error {
		if err := j.replay(groupCtx, j.shadows, seqs); err != nil {
			return err
		}
		now, err = j.readDigests(groupCtx, func(s *shadow) events.Querier { return s.conn }, func(s *shadow) string { return s.shadow })
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var differences []TableDifference
	for i, s := range j.shadows {
		for k, table := range s.Tables {
			d := TableDifference{Projection: s.Name, Table: table, Seq: seqs[i], LiveRows: old[i][k].rows, NewRows: now[i][k].rows, First: []RowDifference{}}
			err := s.findLost(ctx, live, &d)
			if err == nil && old[i][k] != now[i][k] {
				err = s.compareRows(ctx, live, &d)
			}
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

func (j *Job) readDigests(ctx context.Context, db func(*shadow) events.Querier, schema func(*shadow) string) ([][]tableDigest, error) {
	all := make([][]tableDigest, len(j.shadows))
	for i, s := range j.shadows {
		for _, table := range s.Tables {
			d, err := readDigest(ctx, db(s), schema(s), table)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], d)
		}
	}
	return all, nil
}

// findLost notes which indexes and columns only the live table has. Somebody may have added them by hand, and rely on them.
func (s *shadow) findLost(ctx context.Context, live events.Querier, d *TableDifference) error {
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
	found, err := live.Query(ctx, query, quote(s.live), quote(s.shadow), d.Table)
	if err != nil {
		return err
	}
	d.Lost, err = pgx.CollectRows(found, pgx.RowTo[string])
	return err
}
