package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// ordersTable compares the read table orders, which has a row for every confirmed hold.
var ordersTable = readTable{
	name: "orders",
	compareTracked: func(ctx context.Context, s *tableSnapshot, e *expected) error {
		return compareOrderRows(ctx, s, slices.Collect(maps.Values(e.holds)))
	},
	compareEnded: compareOrderRows,
	rowCount:     func(e *expected) (int64, bool) { return e.totals.orders, true },
	foreignRows: `
		SELECT hold_id FROM orders o WHERE pool = $1 AND NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2
			AND e.payload->>'hold_id' = o.hold_id AND e.type LIKE 'HOLD_CONFIRMED%') LIMIT $3`,
}

// compareOrderRows compares the orders of holds. A hold that is not confirmed must have
// none; a full audit skips these holds, since compareRowCount finds their orders.
func compareOrderRows(ctx context.Context, s *tableSnapshot, holds []*expectedHold) error {
	if s.full {
		holds = slices.DeleteFunc(slices.Clone(holds), func(h *expectedHold) bool {
			return h.Status != statusConfirmed
		})
	}
	return matchRows(ctx, s, holds, func(chunk []*expectedHold) (divergences []divergence, err error) {
		rows, err := readOrderRows(ctx, s, chunk)
		if err != nil {
			return nil, err
		}
		for _, hold := range chunk {
			row, exists := rows[hold.ID]
			confirmed := hold.Status == statusConfirmed
			var d divergence
			switch {
			case confirmed && !exists:
				d = s.divergence(KindMissing, hold.ID, describeWantedOrderRow(hold), "")
			case confirmed && !matchOrderRow(hold, &row):
				d = s.divergence(KindChanged, hold.ID, describeWantedOrderRow(hold), describeOrderRow(&row))
			case !confirmed && exists:
				want := "no order: the hold is " + hold.Status
				d = s.divergence(KindUnexpected, hold.ID, want, describeOrderRow(&row))
			default:
				continue
			}
			d.sequenceKey = hold.ID
			d.hold = hold
			divergences = append(divergences, d)
		}
		return divergences, nil
	})
}

// readOrderRows returns the orders of holds, by hold id. A hold has at most one.
func readOrderRows(
	ctx context.Context, s *tableSnapshot, holds []*expectedHold,
) (map[string]projections.Order, error) {
	const query = `
		SELECT order_id, hold_id, user_id, sku, qty, status, payment_ref, created_at FROM orders
		WHERE hold_id = ANY ($1) AND pool = $2`
	rows, err := s.tx.Query(ctx, query, holdIDs(holds), s.pool)
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	found := make(map[string]projections.Order, len(holds))
	var row projections.Order
	columns := []any{
		&row.OrderID,
		&row.HoldID,
		&row.UserID,
		&row.SKU,
		&row.Qty,
		&row.Status,
		&row.PaymentRef,
		&row.CreatedAt,
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		found[row.HoldID] = row
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read orders: %w", err)
	}
	return found, nil
}

func matchOrderRow(hold *expectedHold, row *projections.Order) bool {
	return row.OrderID == events.OrderID(hold.ID) &&
		row.UserID == hold.UserID &&
		row.SKU == hold.SKU &&
		row.Qty == hold.Qty &&
		row.Status == statusConfirmed &&
		row.PaymentRef == hold.PaymentRef &&
		row.CreatedAt.Equal(time.UnixMilli(hold.EndedAtMs))
}

func describeWantedOrderRow(h *expectedHold) string {
	return fmt.Sprintf("%s, %d of %s for %s, paid by %s at %s",
		events.OrderID(h.ID), h.Qty, h.SKU, h.UserID, h.PaymentRef, clock(h.EndedAtMs))
}

func describeOrderRow(row *projections.Order) string {
	return fmt.Sprintf("%s, %d of %s for %s, paid by %s at %s",
		row.OrderID, row.Qty, row.SKU, row.UserID, row.PaymentRef, clock(row.CreatedAt.UnixMilli()))
}
