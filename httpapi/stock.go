package httpapi

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
)

// AdjustRequest is the body of POST /stock/{sku}/adjustments. The header Idempotency-Key
// may carry the key instead.
type AdjustRequest struct {
	Delta          int64  `json:"delta"`
	Reason         string `json:"reason"`
	IdempotencyKey string `json:"idempotency_key"`
}

// StockAnswer is the number of units of a SKU that can be reserved.
type StockAnswer struct {
	SKU       string `json:"sku"`
	Available int64  `json:"available"`
}

func (a *api) adjust(c *gin.Context) error {
	var request AdjustRequest
	if err := decode(c, &request, false); err != nil {
		return err
	}
	key, err := idempotencyKey(c, request.IdempotencyKey)
	if err != nil {
		return err
	}
	done, err := a.Commands.AdjustStock(c.Request.Context(), commands.AdjustStock{
		SKU:            c.Param("sku"),
		Delta:          request.Delta,
		Reason:         request.Reason,
		IdempotencyKey: key,
		Metadata:       eventMetadata(c),
	})
	if err != nil {
		return err
	}
	return a.decided(c, http.StatusOK, done.Position, done.Replayed,
		StockAnswer{SKU: done.SKU, Available: done.Available})
}

// getStock answers with the counter in Redis. The number may change at once: only a hold
// guarantees units.
func (a *api) getStock(c *gin.Context) error {
	available, err := a.Commands.Available(c.Request.Context(), c.Param("sku"))
	if err != nil {
		return err
	}
	return a.write(c, http.StatusOK, StockAnswer{SKU: c.Param("sku"), Available: available})
}
