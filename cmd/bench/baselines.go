package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

type reserveRequest struct {
	SKU            string `json:"sku"`
	Qty            int64  `json:"qty"`
	UserID         string `json:"user_id"`
	IdempotencyKey string `json:"idempotency_key"`
}

type reserveAnswer struct {
	HoldID      string    `json:"hold_id"`
	SKU         string    `json:"sku"`
	Qty         int64     `json:"qty"`
	UserID      string    `json:"user_id"`
	Status      string    `json:"status"`
	ExpiresAt   time.Time `json:"expires_at"`
	ExpiresInMs int64     `json:"expires_in_ms"`
}

// serveBaseline runs one of the servers with which StockStream is compared, until ctx
// ends.
func serveBaseline(ctx context.Context, kind, addr, database string) error {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	switch kind {
	case "noop":
		engine.POST("/holds", noop)
	case "postgres":
		pool, err := pgxpool.New(ctx, database+"&pool_max_conns=32")
		if err != nil {
			return err
		}
		defer pool.Close()
		engine.POST("/holds", func(c *gin.Context) { reserveInPostgres(c, pool) })
	default:
		return errors.New("unknown baseline " + kind)
	}
	server := &http.Server{Addr: addr, Handler: engine, ReadHeaderTimeout: time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// decodeRequest decodes a request. If it is invalid, it answers 400 and returns false.
func decodeRequest(c *gin.Context) (reserveRequest, bool) {
	var request reserveRequest
	if err := json.NewDecoder(c.Request.Body).Decode(&request); err != nil {
		c.Status(http.StatusBadRequest)
		return request, false
	}
	return request, true
}

func writeAnswer(c *gin.Context, r reserveRequest, holdID string) {
	body, err := json.Marshal(reserveAnswer{
		HoldID:      holdID,
		SKU:         r.SKU,
		Qty:         r.Qty,
		UserID:      r.UserID,
		Status:      "ACTIVE",
		ExpiresAt:   time.Now().Add(5 * time.Minute),
		ExpiresInMs: 300_000,
	})
	if err != nil {
		c.Status(http.StatusInternalServerError)
		return
	}
	c.Data(http.StatusCreated, "application/json", body)
}

// noop decodes the same request and gives the same answer as StockStream, but does
// nothing in between.
func noop(c *gin.Context) {
	if request, ok := decodeRequest(c); ok {
		writeAnswer(c, request, "01a20bdd-39fd-7a21-a675-898cf43f1947")
	}
}

const postgresSchema = `
	DROP TABLE IF EXISTS plain_stock, plain_keys, plain_holds;
	CREATE TABLE plain_stock (sku text PRIMARY KEY, qty bigint NOT NULL CHECK (qty >= 0)) WITH (fillfactor = 50);
	CREATE TABLE plain_keys (key text PRIMARY KEY, hold_id uuid NOT NULL);
	CREATE TABLE plain_holds (hold_id uuid PRIMARY KEY, sku text NOT NULL, qty bigint NOT NULL, user_id text NOT NULL, expires_at timestamptz NOT NULL);
	INSERT INTO plain_stock VALUES ('hot', 1000000000)`

// reserveInPostgres is the same API as it is usually built: the stock is one row, and one
// transaction writes the stock, the hold and the idempotency key. The statements are sent
// in one batch.
func reserveInPostgres(c *gin.Context, pool *pgxpool.Pool) {
	request, ok := decodeRequest(c)
	if !ok {
		return
	}
	holdID := uuid.Must(uuid.NewV7())
	err := pgx.BeginFunc(c.Request.Context(), pool, func(tx pgx.Tx) error {
		var sql pgx.Batch
		sql.Queue(`INSERT INTO plain_keys (key, hold_id) VALUES ($1, $2)`, request.IdempotencyKey, holdID)
		sql.Queue(`INSERT INTO plain_holds VALUES ($1, $2, $3, $4, now() + interval '5 minutes')`,
			holdID, request.SKU, request.Qty, request.UserID)
		sql.Queue(`UPDATE plain_stock SET qty = qty - $2 WHERE sku = $1 AND qty >= $2`,
			request.SKU, request.Qty).Exec(
			func(updated pgconn.CommandTag) error {
				if updated.RowsAffected() != 1 {
					return errors.New("sold out")
				}
				return nil
			})
		return tx.SendBatch(c.Request.Context(), &sql).Close()
	})
	if err != nil {
		c.String(http.StatusInternalServerError, err.Error())
		return
	}
	writeAnswer(c, request, holdID.String())
}
