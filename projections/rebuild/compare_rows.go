package rebuild

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// firstRowsMax is how many differing keys are shown with their rows; all are counted.
const firstRowsMax = 20

// compareRows reads both tables in the order of their keys, side by side, and notes where they differ. Neither table is
// held in memory.
func (s *shadow) compareRows(ctx context.Context, live events.Querier, d *TableDifference) error {
	key, err := s.keyExpression(ctx, live, d.Table)
	if err != nil {
		return err
	}
	old, err := openSortedRows(ctx, live, s.live, d.Table, key)
	if err != nil {
		return err
	}
	defer old.close()
	fresh, err := openSortedRows(ctx, s.conn, s.shadow, d.Table, key)
	if err != nil {
		return err
	}
	defer fresh.close()
	old.next()
	fresh.next()
	for !old.done || !fresh.done {
		order := cmp.Compare(old.key, fresh.key)
		switch {
		case fresh.done || !old.done && order < 0:
			d.OnlyLive++
			d.addRow(old.key, old.json, nil)
			old.next()
		case old.done || order > 0:
			d.OnlyNew++
			d.addRow(fresh.key, nil, fresh.json)
			fresh.next()
		default:
			if old.text != fresh.text {
				d.Changed++
				d.addRow(old.key, old.json, fresh.json)
			}
			old.next()
			fresh.next()
		}
	}
	return cmp.Or(old.err, fresh.err)
}

func (d *TableDifference) addRow(key string, live, fresh json.RawMessage) {
	if len(d.First) < firstRowsMax {
		d.First = append(d.First, RowDifference{Key: key, Live: live, New: fresh})
	}
}

// keyExpression returns the SQL that makes a row's key of the alias t: its primary key as text, or, where the two tables do not
// have the same one, the whole row. Its order is that of its bytes, which Go knows too.
func (s *shadow) keyExpression(ctx context.Context, live events.Querier, table string) (string, error) {
	const columns = `
		SELECT string_agg(format('t.%I', attname), ', ' ORDER BY array_position(indkey::int2[], attnum)), count(*)
		FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY(indkey)
		WHERE indisprimary AND indrelid = to_regclass($1)`
	read := func(db events.Querier, schema string) (columnList *string, count int, err error) {
		err = db.QueryRow(ctx, columns, pgx.Identifier{schema, table}.Sanitize()).Scan(&columnList, &count)
		return columnList, count, err
	}
	of, _, err := read(live, s.live)
	if err != nil {
		return "", err
	}
	list, count, err := read(s.conn, s.shadow)
	switch {
	case err != nil:
		return "", err
	case list == nil || of == nil || *of != *list:
		return `t::text COLLATE "C"`, nil
	case count == 1:
		return `(` + *list + `)::text COLLATE "C"`, nil
	}
	return `ROW(` + *list + `)::text COLLATE "C"`, nil
}

// sortedRows is a table being read in the order of its keys.
type sortedRows struct {
	rows      pgx.Rows // nil for a table that is not there
	key, text string
	json      json.RawMessage
	done      bool
	err       error
}

func openSortedRows(ctx context.Context, db events.Querier, schema, table, key string) (*sortedRows, error) {
	name := pgx.Identifier{schema, table}.Sanitize()
	var exists bool
	if err := db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil || !exists {
		return &sortedRows{}, err
	}
	rows, err := db.Query(ctx, fmt.Sprintf(`SELECT %[1]s, t::text, to_json(t)::text FROM %[2]s AS t ORDER BY %[1]s`, key, name))
	if err != nil {
		return nil, err
	}
	return &sortedRows{rows: rows}, nil
}

// next reads one row further; over says that there was none, and err whether that is because of a fault.
func (c *sortedRows) next() {
	if c.rows == nil || !c.rows.Next() {
		c.done = true
		if c.rows != nil {
			c.err = c.rows.Err()
		}
		return
	}
	var text string
	if c.err = c.rows.Scan(&c.key, &c.text, &text); c.err != nil {
		c.done = true
		return
	}
	c.json = json.RawMessage(text)
}

func (c *sortedRows) close() {
	if c.rows != nil {
		c.rows.Close()
	}
}
