package projections

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// StockLevels is the projection of the units available, held and sold per SKU. Their sum
// changes only when stock is adjusted.
func StockLevels() Projection {
	return Projection{
		Name:     "stock_levels",
		Tables:   []string{"stock_levels"},
		Schema:   stockLevelsSchema,
		Upgrades: []Upgrade{addPoolColumn("stock_levels"), addPoolToKey("stock_levels", "sku")},
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
	    pool      text   NOT NULL,
	    CONSTRAINT stock_levels_pkey PRIMARY KEY (pool, sku),
	    CONSTRAINT available_not_negative CHECK (available >= 0),
	    CONSTRAINT held_not_negative CHECK (held >= 0),
	    CONSTRAINT sold_not_negative CHECK (sold >= 0)
	)`

// The fold.

// stockDeltas are the changes of stock levels by one batch.
type stockDeltas map[stockKey]*stockDelta

type stockKey struct {
	pool string
	sku  string
}

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
			deltas.of(e.Pool, p.SKU).available += p.Delta
		case *events.HoldCreated:
			deltas.of(e.Pool, p.SKU).available -= p.Qty
			deltas.of(e.Pool, p.SKU).held += p.Qty
		case *events.HoldConfirmed:
			deltas.of(e.Pool, p.SKU).held -= p.Qty
			deltas.of(e.Pool, p.SKU).sold += p.Qty
		case *events.HoldCancelled:
			deltas.of(e.Pool, p.SKU).held -= p.Qty
			deltas.of(e.Pool, p.SKU).available += p.Qty
		}
	}
	return deltas
}

// of returns the delta of a pool's SKU, which it adds if there is none.
func (d stockDeltas) of(pool, sku string) *stockDelta {
	key := stockKey{pool: pool, sku: sku}
	delta := d[key]
	if delta == nil {
		delta = &stockDelta{}
		d[key] = delta
	}
	return delta
}

// The SQL.

// write inserts a row of zeros for each new SKU, and then adds the deltas. One INSERT …
// ON CONFLICT would not do: the row that it proposes must satisfy the constraints by
// itself, and a delta may be negative although the sum is not.
func (d stockDeltas) write(ctx context.Context, tx pgx.Tx) error {
	const insert = `
		INSERT INTO stock_levels (sku, available, held, sold, pool)
		SELECT sku, 0, 0, 0, pool FROM unnest($1::text[], $2::text[]) AS new (pool, sku)
		ON CONFLICT (pool, sku) DO NOTHING`
	const update = `
		UPDATE stock_levels AS s
		SET available = s.available + d.available, held = s.held + d.held, sold = s.sold + d.sold
		FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS d (pool, sku, available, held, sold)
		WHERE s.pool = d.pool AND s.sku = d.sku`
	keys := slices.SortedFunc(maps.Keys(d), func(a, b stockKey) int {
		return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.sku, b.sku))
	})
	pools := make([]string, len(keys))
	skus := make([]string, len(keys))
	available := make([]int64, len(keys))
	held := make([]int64, len(keys))
	sold := make([]int64, len(keys))
	for i, key := range keys {
		pools[i] = key.pool
		skus[i] = key.sku
		available[i] = d[key].available
		held[i] = d[key].held
		sold[i] = d[key].sold
	}
	var sql pgx.Batch
	sql.Queue(insert, pools, skus)
	sql.Queue(update, pools, skus, available, held, sold)
	if err := tx.SendBatch(ctx, &sql).Close(); err != nil {
		return fmt.Errorf("change stock levels: %w", err)
	}
	return nil
}
