package projections

import (
	"context"
	"fmt"
	"sort"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

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

// StockLevels is the projection of stock_levels: per SKU the units available, held and sold. Their sum changes only
// when stock is adjusted.
func StockLevels() Projection {
	return Projection{
		Name:   "stock_levels",
		Tables: []string{"stock_levels"},
		Schema: stockLevelsSchema,
		Wants:  []events.Type{events.TypeStockAdjusted, events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:    BySKU,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldStock(batch).write(ctx, tx)
		},
	}
}

// stockDeltas is what a batch comes to, per SKU.
type stockDeltas map[string]*stockDelta

type stockDelta struct{ available, held, sold int64 }

func foldStock(batch []Event) stockDeltas {
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

func (d stockDeltas) of(sku string) *stockDelta {
	delta := d[sku]
	if delta == nil {
		delta = &stockDelta{}
		d[sku] = delta
	}
	return delta
}

func (d stockDeltas) write(ctx context.Context, tx pgx.Tx) error {
	skus := make([]string, 0, len(d))
	for sku := range d {
		skus = append(skus, sku)
	}
	sort.Strings(skus)
	available, held, sold := make([]int64, len(skus)), make([]int64, len(skus)), make([]int64, len(skus))
	for i, sku := range skus {
		available[i], held[i], sold[i] = d[sku].available, d[sku].held, d[sku].sold
	}
	// Two steps, because a row that INSERT … ON CONFLICT proposes must itself satisfy the constraints, and a delta
	// may be negative where the sum is not.
	const add = `
		INSERT INTO stock_levels (sku, available, held, sold) SELECT sku, 0, 0, 0 FROM unnest($1::text[]) AS sku
		ON CONFLICT (sku) DO NOTHING`
	const update = `
		UPDATE stock_levels AS s
		SET available = s.available + d.available, held = s.held + d.held, sold = s.sold + d.sold
		FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS d (sku, available, held, sold)
		WHERE s.sku = d.sku`
	var sql pgx.Batch
	sql.Queue(add, skus)
	sql.Queue(update, skus, available, held, sold)
	if err := tx.SendBatch(ctx, &sql).Close(); err != nil {
		return fmt.Errorf("change stock levels: %w", err)
	}
	return nil
}
