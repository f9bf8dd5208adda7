package projections

import (
	"context"
	"fmt"
	"sort"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// StockLevels is the projection of the units available, held and sold per SKU. Their sum
// changes only when stock is adjusted.
func StockLevels() Projection {
	return Projection{
		Name:   "stock_levels",
		Tables: []string{"stock_levels"},
		Schema: stockLevelsSchema,
		Wants: []events.Type{
			events.TypeStockAdjusted,
			events.TypeHoldCreated,
			events.TypeHoldConfirmed,
			events.TypeHoldCancelled,
		},
		Key: BySKU,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldStockLevels(batch).write(ctx, tx)
		},
	}
}

// The table.

const stockLevelsSchema = `
	CREATE TABLE IF NOT EXISTS stock_levels (
	    sku       text   NOT NULL,
	    available bigint NOT NULL,
	    held      bigint NOT NULL,
	    sold      bigint NOT NULL,
	    CONSTRAINT stock_levels_pkey PRIMARY KEY (sku),
	    CONSTRAINT available_not_negative CHECK (available >= 0),
	    CONSTRAINT held_not_negative CHECK (held >= 0),
	    CONSTRAINT sold_not_negative CHECK (sold >= 0)
	)`

// The fold.

// stockDeltas are the changes of stock levels by one batch, per SKU.
type stockDeltas map[string]*stockDelta

type stockDelta struct {
	available int64
	held      int64
	sold      int64
}

func foldStockLevels(batch []Event) stockDeltas {
	deltas := stockDeltas{}
	for _, e := range batch {
		switch p := e.Payload.(type) {
		case *events.StockAdjusted:
			deltas.of(p.SKU).available += p.Delta
		case *events.HoldCreated:
			deltas.of(p.SKU).available -= p.Qty
			deltas.of(p.SKU).held += p.Qty
		case *events.HoldConfirmed:
			deltas.of(p.SKU).held -= p.Qty
			deltas.of(p.SKU).sold += p.Qty
		case *events.HoldCancelled:
			deltas.of(p.SKU).held -= p.Qty
			deltas.of(p.SKU).available += p.Qty
		}
	}
	return deltas
}

// of returns the delta of a SKU, which it adds if there is none.
func (d stockDeltas) of(sku string) *stockDelta {
	delta := d[sku]
	if delta == nil {
		delta = &stockDelta{}
		d[sku] = delta
	}
	return delta
}

// The SQL.

// write inserts a row of zeros for each new SKU, and then adds the deltas. One INSERT …
// ON CONFLICT would not do: the row that it proposes must satisfy the constraints by
// itself, and a delta may be negative although the sum is not.
func (d stockDeltas) write(ctx context.Context, tx pgx.Tx) error {
	const insert = `
		INSERT INTO stock_levels (sku, available, held, sold) SELECT sku, 0, 0, 0 FROM unnest($1::text[]) AS sku
		ON CONFLICT (sku) DO NOTHING`
	const update = `
		UPDATE stock_levels AS s
		SET available = s.available + d.available, held = s.held + d.held, sold = s.sold + d.sold
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS d (sku, available, held, sold)
		WHERE s.sku = d.sku`
	skus := make([]string, 0, len(d))
	for sku := range d {
		skus = append(skus, sku)
	}
	sort.Strings(skus)
	available := make([]int64, len(skus))
	held := make([]int64, len(skus))
	sold := make([]int64, len(skus))
	for i, sku := range skus {
		available[i] = d[sku].available
		held[i] = d[sku].held
		sold[i] = d[sku].sold
	}
	var sql pgx.Batch
	sql.Queue(insert, skus)
	sql.Queue(update, skus, available, held, sold)
	if err := tx.SendBatch(ctx, &sql).Close(); err != nil {
		return fmt.Errorf("change stock levels: %w", err)
	}
	return nil
}
