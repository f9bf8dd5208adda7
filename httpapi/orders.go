package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/projections"
)

// OrderAnswer is an order from the read table, which lags a moment behind the commands.
type OrderAnswer struct {
	OrderID    string    `json:"order_id"`
	HoldID     string    `json:"hold_id"`
	UserID     string    `json:"user_id"`
	SKU        string    `json:"sku"`
	Qty        int64     `json:"qty"`
	Status     string    `json:"status"`
	PaymentRef string    `json:"payment_ref"`
	CreatedAt  time.Time `json:"created_at"`
}

func (a *api) getOrder(c *gin.Context) error {
	id := c.Param("id")
	var f commands.Faults
	if f.OrderID("order_id", id); f.Err() != nil {
		return f.Err()
	}
	ctx, cancel := readContext(c)
	defer cancel()
	order, err := projections.FindOrder(ctx, a.Postgres, a.Pool.Name(), id)
	return a.answerOrder(c, order, err)
}

// findOrder serves GET /orders?hold_id=…. The answer is one order, because a hold becomes
// at most one.
func (a *api) findOrder(c *gin.Context) error {
	id := c.Query("hold_id")
	var f commands.Faults
	if f.HoldID("hold_id", id); f.Err() != nil {
		return f.Err()
	}
	ctx, cancel := readContext(c)
	defer cancel()
	order, err := projections.FindOrderOfHold(ctx, a.Postgres, a.Pool.Name(), id)
	return a.answerOrder(c, order, err)
}

func (a *api) answerOrder(c *gin.Context, o projections.Order, err error) error {
	if err != nil {
		return readError(err, codeUnknownOrder,
			"no such order in the read tables; a new order appears within a second")
	}
	return a.write(c, http.StatusOK, OrderAnswer{
		OrderID:    o.OrderID,
		HoldID:     o.HoldID,
		UserID:     o.UserID,
		SKU:        o.SKU,
		Qty:        o.Qty,
		Status:     o.Status,
		PaymentRef: o.PaymentRef,
		CreatedAt:  o.CreatedAt.UTC(),
	})
}

// readContext returns a context for a query of Postgres. A Postgres that does not answer
// in time counts as unavailable.
func readContext(c *gin.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request.Context(), readTimeout)
}

const readTimeout = 3 * time.Second
