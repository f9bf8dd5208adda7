package audit

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// compareCount finds rows that the journal knows nothing of. Every row that the journal tells of is compared by its key;
// so if there are as many rows as there must be, there is no other. Only where there are more are they looked for.
func (a *auditor) compareCount(ctx context.Context, tx pgx.Tx, table string, seq int64) error {
	want := map[string]int64{
		tableHolds: a.expected.totals.holds, tableOrders: a.expected.totals.orders, tableStock: int64(len(a.expected.stock)),
		tableHours: a.expected.hours.dropped + int64(len(a.expected.hours.units)),
	}[table]
	var count int64
	if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+pgx.Identifier{table}.Sanitize()).Scan(&count); err != nil {
		return fmt.Errorf("count %s: %w", table, err)
	}
	if count <= want {
		return nil // what is missing, its key has told
	}
	strangers, err := a.strangers(ctx, tx, table, seq)
	if err != nil {
		return err
	}
	for _, key := range strangers {
		a.found.differs(Difference{Store: table, Kind: KindUnexpected, Key: key, Expected: "no row: no event tells of it", Seq: seq})
	}
	uncounted := table == tableHours && a.expected.hours.late // rows of hours, where a clock has gone back
	if int64(len(strangers)) < count-want && !uncounted {
		a.found.differs(Difference{Store: table, Kind: KindCount, Key: table, Seq: seq,
			Expected: fmt.Sprintf("%d rows", want), Found: fmt.Sprintf("%d rows", count)})
	}
	return nil
}

// strangers returns keys of rows that no event tells of, as many as a report lists.
func (a *auditor) strangers(ctx context.Context, tx pgx.Tx, table string, seq int64) ([]string, error) {
	query := map[string]string{
		tableHolds: `SELECT hold_id FROM holds h WHERE NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'hold_id' = h.hold_id AND e.type LIKE 'HOLD_CREATED%') LIMIT $3`,
		tableOrders: `SELECT hold_id FROM orders o WHERE NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'hold_id' = o.hold_id AND e.type LIKE 'HOLD_CONFIRMED%') LIMIT $3`,
		tableStock: `SELECT sku FROM stock_levels s WHERE NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'sku' = s.sku) LIMIT $3`,
		tableHours: `SELECT sku || ' ' || to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM sku_hours s WHERE NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'sku' = s.sku AND e.type LIKE 'HOLD%'
			AND e.at >= s.hour AND e.at < s.hour + interval '1 hour') LIMIT $3`,
	}[table]
	rows, err := tx.Query(ctx, query, a.config.Pool.Name(), seq, listMax)
	if err != nil {
		return nil, fmt.Errorf("look for rows of %s that no event tells of: %w", table, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for rows of %s that no event tells of: %w", table, err)
	}
	return keys, nil
}
