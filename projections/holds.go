package projections

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Hold is a row of holds: every hold that was ever made, and how it ended.
type Hold struct {
	HoldID         string
	SKU            string
	Qty            int64
	UserID         string
	Status         string // ACTIVE, CONFIRMED, CANCELLED or EXPIRED
	ExpiresAt      time.Time
	CreatedAt      time.Time
	IdempotencyKey string
}

// Statuses of a hold. A hold whose deadline has passed is ACTIVE until the event says that it expired: nothing is
// judged by the projector's clock.
const (
	holdActive    = "ACTIVE"
	holdConfirmed = "CONFIRMED"
	holdCancelled = "CANCELLED"
	holdExpired   = "EXPIRED"
)

const holdsSchema = `
	CREATE TABLE IF NOT EXISTS holds (
	    hold_id         text        NOT NULL,
	    sku             text        NOT NULL,
	    qty             bigint      NOT NULL,
	    user_id         text        NOT NULL,
	    status          text        NOT NULL,
	    expires_at      timestamptz NOT NULL,
	    created_at      timestamptz NOT NULL,
	    idempotency_key text        NOT NULL,
	    CONSTRAINT holds_pkey PRIMARY KEY (hold_id),
	    CONSTRAINT holds_qty_positive CHECK (qty > 0),
	    CONSTRAINT holds_status_known CHECK (status IN ('ACTIVE', 'CONFIRMED', 'CANCELLED', 'EXPIRED'))
	)`

// Holds is the projection of holds, one row each.
func Holds() Projection {
	return Projection{
		Name:   "holds",
		Tables: []string{"holds"},
		Schema: holdsSchema,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:    ByHold,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldHolds(batch).write(ctx, tx)
		},
	}
}

// holdChanges is what a batch comes to: rows to add, as they stand at its end, and rows of earlier batches that ended.
type holdChanges struct {
	added  []Hold
	index  map[string]int // hold id to its place in added
	ended  []string       // hold ids
	status []string       // what each of them ended as
}

func foldHolds(batch []Event) *holdChanges {
	c := &holdChanges{index: make(map[string]int, len(batch))}
	for _, e := range batch {
		switch p := e.Payload.(type) {
		case *events.HoldCreated:
			c.index[p.HoldID] = len(c.added)
			c.added = append(c.added, Hold{
				HoldID: p.HoldID, SKU: p.SKU, Qty: p.Qty, UserID: p.UserID, Status: holdActive, CreatedAt: e.At,
				ExpiresAt: e.At.Add(time.Duration(p.TTLMs) * time.Millisecond), IdempotencyKey: p.IdempotencyKey,
			})
		case *events.HoldConfirmed:
			c.end(p.HoldID, holdConfirmed)
		case *events.HoldCancelled:
			c.end(p.HoldID, cancelledStatus(p.Reason))
		}
	}
	return c
}

func cancelledStatus(reason string) string {
	if reason == events.ReasonExpired {
		return holdExpired
	}
	return holdCancelled
}

func (c *holdChanges) end(holdID, status string) {
	if i, here := c.index[holdID]; here && c.added[i].Status == holdActive {
		c.added[i].Status = status
		return
	}
	c.ended = append(c.ended, holdID)
	c.status = append(c.status, status)
}

func (c *holdChanges) write(ctx context.Context, tx pgx.Tx) error {
	if len(c.added) > 0 {
		columns := []string{"hold_id", "sku", "qty", "user_id", "status", "expires_at", "created_at", "idempotency_key"}
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"holds"}, columns, pgx.CopyFromSlice(len(c.added), func(i int) ([]any, error) {
			h := &c.added[i]
			return []any{h.HoldID, h.SKU, h.Qty, h.UserID, h.Status, h.ExpiresAt, h.CreatedAt, h.IdempotencyKey}, nil
		}))
		if err != nil {
			return fmt.Errorf("add holds: %w", err)
		}
	}
	if len(c.ended) == 0 {
		return nil
	}
	const update = `
		UPDATE holds SET status = ended.status FROM unnest($1::text[], $2::text[]) AS ended (hold_id, status)
		WHERE holds.hold_id = ended.hold_id AND holds.status = 'ACTIVE'`
	tag, err := tx.Exec(ctx, update, c.ended, c.status)
	if err != nil {
		return fmt.Errorf("end holds: %w", err)
	}
	if tag.RowsAffected() != int64(len(c.ended)) {
		return fmt.Errorf("end holds: %d of %d are there and active", tag.RowsAffected(), len(c.ended))
	}
	return nil
}

// Errors of the queries of this package.
var (
	// ErrNotFound is returned for a row that is not there (yet).
	ErrNotFound = errors.New("not found")
	// ErrNotReady is returned for a table that is not there yet: its projection makes it when it first runs.
	ErrNotReady = errors.New("the read table is not there yet")
)

// FindHold returns one hold, or ErrNotFound.
func FindHold(ctx context.Context, db postgres.Querier, holdID string) (Hold, error) {
	const query = `
		SELECT hold_id, sku, qty, user_id, status, expires_at, created_at, idempotency_key FROM holds WHERE hold_id = $1`
	return one[Hold](ctx, db, "find hold", query, holdID)
}

// one reads a single row into a struct, by position.
func one[T any](ctx context.Context, db postgres.Querier, operation, query string, args ...any) (found T, err error) {
	rows, err := db.Query(ctx, query, args...)
	if err == nil {
		found, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[T])
	}
	return found, readFault(operation, err)
}

// all reads any number of rows into structs, by position.
func all[T any](ctx context.Context, db postgres.Querier, operation, query string, args ...any) (found []T, err error) {
	rows, err := db.Query(ctx, query, args...)
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	}
	return found, readFault(operation, err)
}

// readFault turns what a query failed with into the errors of this package.
func readFault(operation string, err error) error {
	const undefinedTable = "42P01"
	fault := new(pgconn.PgError)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &fault) && fault.Code == undefinedTable:
		return fmt.Errorf("%s: %w: %w", operation, ErrNotReady, err)
	}
	return fmt.Errorf("%s: %w", operation, err)
}
