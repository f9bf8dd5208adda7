package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// SKUHour is a row of sku_hours: the units of a SKU that were reserved, sold, cancelled and expired within an hour. A
// confirmation or a cancellation counts in the hour in which it happened, whenever its hold was made.
type SKUHour struct {
	SKU       string
	Hour      time.Time // its beginning; hours begin where they do in UTC
	Reserved  int64
	Sold      int64
	Cancelled int64 // by a shopper, or for any reason but the deadline
	Expired   int64
}

const skuHoursSchema = `
	CREATE TABLE IF NOT EXISTS sku_hours (
	    sku       text        NOT NULL,
	    hour      timestamptz NOT NULL,
	    reserved  bigint      NOT NULL,
	    sold      bigint      NOT NULL,
	    cancelled bigint      NOT NULL,
	    expired   bigint      NOT NULL,
	    CONSTRAINT sku_hours_pkey PRIMARY KEY (sku, hour)
	)`

// SKUHours is the projection of sku_hours: how a sale goes, hour by hour.
func SKUHours() Projection {
	return Projection{
		Name:   "sku_hours",
		Tables: []string{"sku_hours"},
		Schema: skuHoursSchema,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:    BySKU,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldSKUHours(batch).write(ctx, tx)
		},
	}
}

// skuHours is what a batch comes to, a row per SKU and hour.
type skuHours struct {
	rows   []SKUHour
	places map[skuHourKey]int // in rows
}

type skuHourKey struct {
	sku  string
	hour int64 // since 1970
}

func foldSKUHours(batch []Event) *skuHours {
	h := &skuHours{places: map[skuHourKey]int{}}
	for _, e := range batch {
		switch p := e.Payload.(type) {
		case *events.HoldCreated:
			h.of(p.SKU, e.At).Reserved += p.Qty
		case *events.HoldConfirmed:
			h.of(p.SKU, e.At).Sold += p.Qty
		case *events.HoldCancelled:
			if p.Reason == events.ReasonExpired {
				h.of(p.SKU, e.At).Expired += p.Qty
			} else {
				h.of(p.SKU, e.At).Cancelled += p.Qty
			}
		}
	}
	return h
}

func (h *skuHours) of(sku string, at time.Time) *SKUHour {
	hour := at.UTC().Truncate(time.Hour)
	key := skuHourKey{sku, hour.Unix() / 3600}
	place, here := h.places[key]
	if !here {
		place = len(h.rows)
		h.places[key] = place
		h.rows = append(h.rows, SKUHour{SKU: sku, Hour: hour})
	}
	return &h.rows[place]
}

func (h *skuHours) write(ctx context.Context, tx pgx.Tx) error {
	const add = `
		INSERT INTO sku_hours AS h (sku, hour, reserved, sold, cancelled, expired)
		SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
		ON CONFLICT (sku, hour) DO UPDATE
		SET reserved = h.reserved + excluded.reserved, sold = h.sold + excluded.sold,
		    cancelled = h.cancelled + excluded.cancelled, expired = h.expired + excluded.expired`
	n := len(h.rows)
	skus, hours := make([]string, n), make([]time.Time, n)
	reserved, sold, cancelled, expired := make([]int64, n), make([]int64, n), make([]int64, n), make([]int64, n)
	for i, r := range h.rows {
		skus[i], hours[i] = r.SKU, r.Hour
		reserved[i], sold[i], cancelled[i], expired[i] = r.Reserved, r.Sold, r.Cancelled, r.Expired
	}
	if _, err := tx.Exec(ctx, add, skus, hours, reserved, sold, cancelled, expired); err != nil {
		return fmt.Errorf("add to the hours of SKUs: %w", err)
	}
	return nil
}

// FindSKUHours returns the hours that begin at from or later and before to, and in which anything happened to a SKU,
// the earliest first. Where nothing did, there are none.
func FindSKUHours(ctx context.Context, db postgres.Querier, sku string, from, to time.Time) ([]SKUHour, error) {
	const query = `
		SELECT sku, hour, reserved, sold, cancelled, expired FROM sku_hours
		WHERE sku = $1 AND hour >= $2 AND hour < $3 ORDER BY hour`
	return all[SKUHour](ctx, db, "find hours of a SKU", query, sku, from, to)
}
