package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Orders is the projection of orders, one row per confirmed hold. Every HOLD_CONFIRMED
// event becomes an order, even if it is applied after the hold's deadline: the command
// checked the deadline before it appended the event.
func Orders() Projection {
	return Projection{
		Name:     "orders",
		Tables:   []string{"orders"},
		Schema:   ordersSchema,
		Upgrades: []Upgrade{addPoolColumn("orders")},
		Wants:    []events.Type{events.TypeHoldConfirmed},
		Key:      ByHold,
		Apply:    insertOrders,
	}
}

// The table.

// Order is a row of orders.
type Order struct {
	OrderID    string
	HoldID     string
	UserID     string
	SKU        string
	Qty        int64
	Status     string // CONFIRMED
	PaymentRef string
	CreatedAt  time.Time
	Pool       string
}

const ordersSchema = `
	CREATE TABLE IF NOT EXISTS orders (
	    order_id    text        NOT NULL,
	    hold_id     text        NOT NULL,
	    user_id     text        NOT NULL,
	    sku         text        NOT NULL,
	    qty         bigint      NOT NULL,
	    status      text        NOT NULL,
	    payment_ref text        NOT NULL,
	    created_at  timestamptz NOT NULL,
	    pool        text        NOT NULL,
	    CONSTRAINT orders_pkey PRIMARY KEY (order_id),
	    CONSTRAINT one_order_per_hold UNIQUE (hold_id),
	    CONSTRAINT orders_qty_positive CHECK (qty > 0),
	    CONSTRAINT orders_status_known CHECK (status IN ('CONFIRMED'))
	)`

// The SQL. There is no fold: each event is one row.

func insertOrders(ctx context.Context, tx pgx.Tx, batch []Event) error {
	columns := []string{
		"order_id",
		"hold_id",
		"user_id",
		"sku",
		"qty",
		"status",
		"payment_ref",
		"created_at",
		"pool",
	}
	rows := pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		p, ok := batch[i].Payload.(*events.HoldConfirmed)
		if !ok {
			return nil, fmt.Errorf("%s is not a confirmation", batch[i].Type)
		}
		return []any{
			events.OrderID(p.HoldID),
			p.HoldID,
			p.UserID,
			p.SKU,
			p.Qty,
			holdConfirmed,
			p.PaymentRef,
			batch[i].At,
			batch[i].Pool,
		}, nil
	})
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"orders"}, columns, rows); err != nil {
		return fmt.Errorf("insert orders: %w", err)
	}
	return nil
}

const selectOrder = `SELECT order_id, hold_id, user_id, sku, qty, status, payment_ref, created_at, pool FROM orders `

// FindOrder returns the order of a pool with an id, or ErrNotFound.
func FindOrder(ctx context.Context, db postgres.Querier, pool, orderID string) (Order, error) {
	const condition = `WHERE order_id = $1 AND pool = $2`
	return queryOne[Order](ctx, db, "find order", selectOrder+condition, orderID, pool)
}

// FindOrderOfHold returns the order of a confirmed hold of a pool, or ErrNotFound.
func FindOrderOfHold(ctx context.Context, db postgres.Querier, pool, holdID string) (Order, error) {
	const condition = `WHERE hold_id = $1 AND pool = $2`
	return queryOne[Order](ctx, db, "find order of hold", selectOrder+condition, holdID, pool)
}
