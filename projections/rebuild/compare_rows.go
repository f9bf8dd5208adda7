package rebuild

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// compareRows counts the keys whose rows differ, and keeps the first of them in d. It
// reads both tables in the order of their keys and merges them, so memory use does not
// grow with the tables.
func (s *shadow) compareRows(ctx context.Context, live postgres.Querier, d *TableDifference) error {
	key, err := s.keyExpression(ctx, live, d.Table)
	if err != nil {
		return err
	}
	liveRows, err := openSortedRows(ctx, live, s.live, d.Table, key)
	if err != nil {
		return err
	}
	defer liveRows.close()
	newRows, err := openSortedRows(ctx, s.conn, s.shadow, d.Table, key)
	if err != nil {
		return err
	}
	defer newRows.close()
	liveRows.next()
	newRows.next()
	for !liveRows.done || !newRows.done {
		order := cmp.Compare(liveRows.key, newRows.key)
		switch {
		case newRows.done || !liveRows.done && order < 0:
			d.OnlyLive++
			d.addRow(liveRows.key, liveRows.json, nil)
			liveRows.next()
		case liveRows.done || order > 0:
			d.OnlyNew++
			d.addRow(newRows.key, nil, newRows.json)
			newRows.next()
		default:
			if liveRows.text != newRows.text {
				d.Changed++
				d.addRow(liveRows.key, liveRows.json, newRows.json)
			}
			liveRows.next()
			newRows.next()
		}
	}
	return cmp.Or(liveRows.err, newRows.err)
}

// keyExpression returns the SQL expression for the key of the row t, as text: its primary
// key, or the whole row if the two tables have different primary keys or none. The key
// sorts by its bytes, as Go strings do.
func (s *shadow) keyExpression(ctx context.Context, live postgres.Querier, table string) (string, error) {
	const columns = `
		SELECT string_agg(format('t.%I', attname), ', ' ORDER BY array_position(indkey::int2[], attnum)), count(*)
		FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
		WHERE indisprimary AND indrelid = to_regclass($1)`
	read := func(db postgres.Querier, schema string) (list *string, count int, err error) {
		err = db.QueryRow(ctx, columns, pgx.Identifier{schema, table}.Sanitize()).Scan(&list, &count)
		return list, count, err
	}
	liveList, _, err := read(live, s.live)
	if err != nil {
		return "", err
	}
	newList, count, err := read(s.conn, s.shadow)
	switch {
	case err != nil:
		return "", err
	case newList == nil || liveList == nil || *liveList != *newList:
		return `t::text COLLATE "C"`, nil
	case count == 1:
		return `(` + *newList + `)::text COLLATE "C"`, nil
	}
	return `ROW(` + *newList + `)::text COLLATE "C"`, nil
}

// sortedRows reads the rows of a table in the order of their keys.
type sortedRows struct {
	rows pgx.Rows // nil if the table does not exist
	key  string
	text string
	json json.RawMessage
	done bool // there is no current row
	err  error
}

func openSortedRows(
	ctx context.Context, db postgres.Querier, schema, table, key string,
) (*sortedRows, error) {
	name := pgx.Identifier{schema, table}.Sanitize()
	exists, err := tableExists(ctx, db, name)
	if err != nil || !exists {
		return &sortedRows{}, err
	}
	query := fmt.Sprintf(`SELECT %[1]s, t::text, to_json(t)::text FROM %[2]s AS t ORDER BY %[1]s`, key, name)
	rows, err := db.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return &sortedRows{rows: rows}, nil
}

// next reads the next row. After the last row, or after an error, it sets done.
func (r *sortedRows) next() {
	if r.rows == nil || !r.rows.Next() {
		r.done = true
		if r.rows != nil {
			r.err = r.rows.Err()
		}
		return
	}
	var text string
	if r.err = r.rows.Scan(&r.key, &r.text, &text); r.err != nil {
		r.done = true
		return
	}
	r.json = json.RawMessage(text)
}

func (r *sortedRows) close() {
	if r.rows != nil {
		r.rows.Close()
	}
}
