package httpapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/projections"
)

// OrderAnswer is an order as the read table has it: a moment behind the commands.
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
	ctx, cancel := readContext(c)
	defer cancel()
	order, err := projections.FindOrder(ctx, a.Postgres, cleanText(c.Param("id")))
	return a.answerOrder(c, order, err)
}

// findOrder serves GET /orders?hold_id=…: a hold becomes at most one order, so the answer is that order.
func (a *api) findOrder(c *gin.Context) error {
	id := cleanText(c.Query("hold_id"))
	if id == "" {
		return invalid("hold_id", "is required: /orders?hold_id=…")
	}
	ctx, cancel := readContext(c)
	defer cancel()
	order, err := projections.FindOrderOfHold(ctx, a.Postgres, id)
	return a.answerOrder(c, order, err)
}

func (a *api) answerOrder(c *gin.Context, o projections.Order, err error) error {
	if err != nil {
		return readError(err, codeUnknownOrder, "no such order in the read tables; one made this moment appears within a second")
	}
	return a.write(c, http.StatusOK, OrderAnswer{
		OrderID: o.OrderID, HoldID: o.HoldID, UserID: o.UserID, SKU: o.SKU, Qty: o.Qty, Status: o.Status,
		PaymentRef: o.PaymentRef, CreatedAt: o.CreatedAt.UTC(),
	})
}

// readContext bounds a look into the read tables: a Postgres that is silent is one that cannot be reached.
func readContext(c *gin.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Request.Context(), readTimeout)
}

const readTimeout = 3 * time.Second

// cleanText drops what no id holds and Postgres would not take.
func cleanText(s string) string { return strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "") }
