package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// stockLevelsTable compares the read table stock_levels, which has a row for every SKU.
var stockLevelsTable = readTable{
	name:           "stock_levels",
	compareTracked: compareLevelRows,
	rowCount:       func(e *expected) (int64, bool) { return int64(len(e.stock)), true },
	foreignRows: `
		SELECT sku FROM stock_levels s WHERE pool = $1 AND NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'sku' = s.sku) LIMIT $3`,
}

// levelRow is a row of stock_levels, in units.
type levelRow struct{ available, held, sold int64 }

func (r levelRow) describe() string {
	return fmt.Sprintf("%d available, %d held, %d sold", r.available, r.held, r.sold)
}

func compareLevelRows(ctx context.Context, s *tableSnapshot, e *expected) error {
	all := slices.Sorted(maps.Keys(e.stock))
	return matchRows(ctx, s, all, func(skus []string) (divergences []divergence, err error) {
		rows, err := readLevelRows(ctx, s, skus)
		if err != nil {
			return nil, err
		}
		for _, sku := range skus {
			stock := e.stock[sku]
			want := levelRow{available: stock.Available(), held: stock.Held, sold: stock.Sold}
			row, exists := rows[sku]
			var d divergence
			switch {
			case !exists:
				d = s.divergence(KindMissing, sku, want.describe(), "")
			case row != want:
				d = s.divergence(KindChanged, sku, want.describe(), row.describe())
			default:
				continue
			}
			d.sequenceKey = sku
			d.sku = sku
			divergences = append(divergences, d)
		}
		return divergences, nil
	})
}

// readLevelRows returns the rows of stock_levels, by SKU.
func readLevelRows(ctx context.Context, s *tableSnapshot, skus []string) (map[string]levelRow, error) {
	const query = `SELECT sku, available, held, sold FROM stock_levels WHERE pool = $1 AND sku = ANY ($2)`
	rows, err := s.tx.Query(ctx, query, s.pool, skus)
	if err != nil {
		return nil, fmt.Errorf("read stock_levels: %w", err)
	}
	found := make(map[string]levelRow, len(skus))
	var sku string
	var row levelRow
	_, err = pgx.ForEachRow(rows, []any{&sku, &row.available, &row.held, &row.sold}, func() error {
		found[sku] = row
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read stock_levels: %w", err)
	}
	return found, nil
}
