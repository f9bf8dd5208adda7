package httpapi

import (
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// ReserveRequest is the body of POST /holds. The header Idempotency-Key may carry the key
// instead.
type ReserveRequest struct {
	SKU            string `json:"sku"`
	Qty            int64  `json:"qty"`
	UserID         string `json:"user_id"`
	TTLSeconds     *int64 `json:"ttl_seconds"`
	IdempotencyKey string `json:"idempotency_key"`
}

// ReserveAnswer is the hold that a request created. For a repeated request it is the same
// hold in its present state.
type ReserveAnswer struct {
	HoldID      string    `json:"hold_id"`
	SKU         string    `json:"sku"`
	Qty         int64     `json:"qty"`
	UserID      string    `json:"user_id"`
	Status      string    `json:"status"`
	ExpiresAt   time.Time `json:"expires_at"`
	ExpiresInMs int64     `json:"expires_in_ms"`
}

func (a *api) reserve(c *gin.Context) error {
	var request ReserveRequest
	if err := decode(c, &request, false); err != nil {
		return err
	}
	key, err := idempotencyKey(c, request.IdempotencyKey)
	if err != nil {
		return err
	}
	ttl, err := ttlOf(request.TTLSeconds)
	if err != nil {
		return err
	}
	r, err := a.Commands.Reserve(c.Request.Context(), commands.Reserve{
		SKU:            request.SKU,
		Qty:            request.Qty,
		UserID:         request.UserID,
		TTL:            ttl,
		IdempotencyKey: key,
		Metadata:       eventMetadata(c),
	})
	if err != nil {
		return err
	}
	c.Header("Location", "/holds/"+r.HoldID)
	return a.decided(c, http.StatusCreated, r.Position, r.Replayed, ReserveAnswer{
		HoldID:      r.HoldID,
		SKU:         r.SKU,
		Qty:         r.Qty,
		UserID:      r.UserID,
		Status:      string(r.Status),
		ExpiresAt:   r.ExpiresAt,
		ExpiresInMs: r.ExpiresIn.Milliseconds(),
	})
}

// ttlOf returns the requested time to live, or 0 if the request has none. The command
// checks the upper limit.
func ttlOf(seconds *int64) (time.Duration, error) {
	const secondsMax = 1 << 32 // far above any limit, and small enough for a time.Duration
	switch {
	case seconds == nil:
		return 0, nil
	case *seconds < 1 || *seconds > secondsMax:
		return 0, invalid("ttl_seconds", "must be a number of seconds above 0 and within the limit")
	}
	return time.Duration(*seconds) * time.Second, nil
}

// ConfirmRequest is the body of POST /holds/confirm. hold_id may be left out if the path
// has the id.
type ConfirmRequest struct {
	HoldID     string `json:"hold_id"`
	PaymentRef string `json:"payment_ref"`
}

// ConfirmAnswer is the order that a confirmed hold became.
type ConfirmAnswer struct {
	OrderID    string `json:"order_id"`
	HoldID     string `json:"hold_id"`
	SKU        string `json:"sku"`
	Qty        int64  `json:"qty"`
	UserID     string `json:"user_id"`
	Status     string `json:"status"`
	PaymentRef string `json:"payment_ref"`
}

func (a *api) confirm(c *gin.Context) error {
	var request ConfirmRequest
	if err := decode(c, &request, false); err != nil {
		return err
	}
	id, err := holdID(c, request.HoldID)
	if err != nil {
		return err
	}
	done, err := a.Commands.Confirm(c.Request.Context(), commands.Confirm{
		HoldID:     id,
		PaymentRef: request.PaymentRef,
		Metadata:   eventMetadata(c),
	})
	if err != nil {
		return err
	}
	return a.decided(c, http.StatusOK, done.Position, done.Replayed, ConfirmAnswer{
		OrderID:    done.OrderID,
		HoldID:     done.HoldID,
		SKU:        done.SKU,
		Qty:        done.Qty,
		UserID:     done.UserID,
		Status:     string(events.StatusConfirmed),
		PaymentRef: done.PaymentRef,
	})
}

// CancelRequest is the body of POST /holds/cancel. The body may be left out if the path
// has the id.
type CancelRequest struct {
	HoldID string `json:"hold_id"`
}

// CancelAnswer is the cancelled hold.
type CancelAnswer struct {
	HoldID string `json:"hold_id"`
	SKU    string `json:"sku"`
	Qty    int64  `json:"qty"`
	UserID string `json:"user_id"`
	Status string `json:"status"`
}

func (a *api) cancel(c *gin.Context) error {
	var request CancelRequest
	if err := decode(c, &request, c.Param("id") != ""); err != nil {
		return err
	}
	id, err := holdID(c, request.HoldID)
	if err != nil {
		return err
	}
	done, err := a.Commands.Cancel(c.Request.Context(), commands.Cancel{
		HoldID:   id,
		Metadata: eventMetadata(c),
	})
	if err != nil {
		return err
	}
	return a.decided(c, http.StatusOK, done.Position, done.Replayed, CancelAnswer{
		HoldID: done.HoldID,
		SKU:    done.SKU,
		Qty:    done.Qty,
		UserID: done.UserID,
		Status: string(done.Status),
	})
}

// HoldAnswer is a hold from the read table, which lags a moment behind the commands.
type HoldAnswer struct {
	HoldID         string    `json:"hold_id"`
	SKU            string    `json:"sku"`
	Qty            int64     `json:"qty"`
	UserID         string    `json:"user_id"`
	Status         string    `json:"status"`
	ExpiresAt      time.Time `json:"expires_at"`
	CreatedAt      time.Time `json:"created_at"`
	IdempotencyKey string    `json:"idempotency_key"`
}

func (a *api) getHold(c *gin.Context) error {
	id := c.Param("id")
	var f commands.Faults
	if f.HoldID("hold_id", id); f.Err() != nil {
		return f.Err()
	}
	ctx, cancel := readContext(c)
	defer cancel()
	h, err := projections.FindHold(ctx, a.Postgres, a.Pool.Name(), id)
	if err != nil {
		return readError(err, codeUnknownHold,
			"no such hold in the read tables; a new hold appears within a second")
	}
	return a.write(c, http.StatusOK, HoldAnswer{
		HoldID:         h.HoldID,
		SKU:            h.SKU,
		Qty:            h.Qty,
		UserID:         h.UserID,
		Status:         h.Status,
		ExpiresAt:      h.ExpiresAt.UTC(),
		CreatedAt:      h.CreatedAt.UTC(),
		IdempotencyKey: h.IdempotencyKey,
	})
}
