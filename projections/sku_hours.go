package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// SKUHours is the projection of the units of each SKU that were reserved, sold, cancelled
// and expired in each hour. A confirmation or cancellation counts in the hour in which it
// happened, not in the hour of its hold.
func SKUHours() Projection {
	return Projection{
		Name:     "sku_hours",
		Tables:   []string{"sku_hours"},
		Schema:   skuHoursSchema,
		Upgrades: []Upgrade{addPoolColumn("sku_hours"), addPoolToKey("sku_hours", "sku", "hour")},
		Wants:    []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:      BySKU,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldSKUHours(batch).write(ctx, tx)
		},
	}
}

// The table.

// SKUHour is a row of sku_hours.
type SKUHour struct {
	SKU       string
	Hour      time.Time // start of the hour, in UTC
	Reserved  int64     // units, as are the fields below
	Sold      int64
	Cancelled int64 // for any reason but the deadline
	Expired   int64
	Pool      string
}

const skuHoursSchema = `
	CREATE TABLE IF NOT EXISTS sku_hours (
	    sku       text        NOT NULL,
	    hour      timestamptz NOT NULL,
	    reserved  bigint      NOT NULL,
	    sold      bigint      NOT NULL,
	    cancelled bigint      NOT NULL,
	    expired   bigint      NOT NULL,
	    pool      text        NOT NULL,
	    CONSTRAINT sku_hours_pkey PRIMARY KEY (pool, sku, hour)
	)`

// The fold.

// skuHours are the units that one batch adds, one row per pool, SKU and hour.
type skuHours struct {
	rows  []SKUHour
	index map[skuHourKey]int // index in rows
}

type skuHourKey struct {
	pool string
	sku  string
	hour int64 // hours since 1970
}

func foldSKUHours(batch []Event) *skuHours {
	h := &skuHours{index: map[skuHourKey]int{}}
	for _, e := range batch {
		switch p := e.Payload.(type) {
		case *events.HoldCreated:
			h.row(e, p.SKU).Reserved += p.Qty
		case *events.HoldConfirmed:
			h.row(e, p.SKU).Sold += p.Qty
		case *events.HoldCancelled:
			if p.Reason == events.ReasonExpired {
				h.row(e, p.SKU).Expired += p.Qty
			} else {
				h.row(e, p.SKU).Cancelled += p.Qty
			}
		}
	}
	return h
}

// row returns the row of an event's SKU and hour, which it adds if there is none.
func (h *skuHours) row(e Event, sku string) *SKUHour {
	hour := e.At.UTC().Truncate(time.Hour)
	key := skuHourKey{pool: e.Pool, sku: sku, hour: hour.Unix() / 3600}
	i, found := h.index[key]
	if !found {
		i = len(h.rows)
		h.index[key] = i
		h.rows = append(h.rows, SKUHour{SKU: sku, Hour: hour, Pool: e.Pool})
	}
	return &h.rows[i]
}

// The SQL.

func (h *skuHours) write(ctx context.Context, tx pgx.Tx) error {
	const add = `
		INSERT INTO sku_hours AS h (sku, hour, reserved, sold, cancelled, expired, pool)
		SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
		ON CONFLICT (pool, sku, hour) DO UPDATE
		SET reserved = h.reserved + excluded.reserved, sold = h.sold + excluded.sold,
		    cancelled = h.cancelled + excluded.cancelled, expired = h.expired + excluded.expired`
	n := len(h.rows)
	skus := make([]string, n)
	hours := make([]time.Time, n)
	reserved := make([]int64, n)
	sold := make([]int64, n)
	cancelled := make([]int64, n)
	expired := make([]int64, n)
	pools := make([]string, n)
	for i, r := range h.rows {
		skus[i] = r.SKU
		hours[i] = r.Hour
		reserved[i] = r.Reserved
		sold[i] = r.Sold
		cancelled[i] = r.Cancelled
		expired[i] = r.Expired
		pools[i] = r.Pool
	}
	if _, err := tx.Exec(ctx, add, skus, hours, reserved, sold, cancelled, expired, pools); err != nil {
		return fmt.Errorf("add to sku_hours: %w", err)
	}
	return nil
}

// FindSKUHours returns the hours of a pool's SKU that begin at from or later and before
// to, earliest first. An hour without an event of the SKU has no row.
func FindSKUHours(
	ctx context.Context, db postgres.Querier, pool, sku string, from, to time.Time,
) ([]SKUHour, error) {
	const query = `
		SELECT sku, hour, reserved, sold, cancelled, expired, pool FROM sku_hours
		WHERE pool = $1 AND sku = $2 AND hour >= $3 AND hour < $4 ORDER BY hour`
	return queryAll[SKUHour](ctx, db, "find hours of a SKU", query, pool, sku, from, to)
}
