package projections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Holds is the projection of every hold that was ever created, and of how it ended.
func Holds() Projection {
	return Projection{
		Name:     "holds",
		Tables:   []string{"holds"},
		Schema:   holdsSchema,
		Upgrades: []Upgrade{addPoolColumn("holds")},
		Wants:    []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:      ByHold,
		Apply: func(ctx context.Context, tx pgx.Tx, batch []Event) error {
			return foldHolds(batch).write(ctx, tx)
		},
	}
}

// The table.

// Hold is a row of holds.
type Hold struct {
	HoldID         string
	SKU            string
	Qty            int64
	UserID         string
	Status         string // ACTIVE, CONFIRMED, CANCELLED or EXPIRED
	ExpiresAt      time.Time
	CreatedAt      time.Time
	IdempotencyKey string
	Pool           string
}

// The statuses of a hold. A hold whose deadline has passed stays ACTIVE until its
// HOLD_CANCELLED event arrives: the projection never compares a deadline with a clock.
const (
	holdActive    = string(events.StatusActive)
	holdConfirmed = string(events.StatusConfirmed)
	holdCancelled = string(events.StatusCancelled)
	holdExpired   = string(events.StatusExpired)
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
	    pool            text        NOT NULL,
	    CONSTRAINT holds_pkey PRIMARY KEY (hold_id),
	    CONSTRAINT holds_qty_positive CHECK (qty > 0),
	    CONSTRAINT holds_status_known CHECK (status IN ('ACTIVE', 'CONFIRMED', 'CANCELLED', 'EXPIRED'))
	)`

// The fold.

// holdChanges are the changes of holds by one batch: the rows to insert, with the status
// they have at the end of the batch, and the rows of earlier batches whose hold ended.
type holdChanges struct {
	created       []Hold
	createdIndex  map[string]int // hold id to index in created
	endedIDs      []string       // ids of holds of earlier batches
	endedPools    []string       // their pools, in the same order
	endedStatuses []string       // their new statuses, in the same order
}

func foldHolds(batch []Event) *holdChanges {
	c := &holdChanges{createdIndex: make(map[string]int, len(batch))}
	for _, e := range batch {
		switch p := e.Payload.(type) {
		case *events.HoldCreated:
			c.createdIndex[p.HoldID] = len(c.created)
			c.created = append(c.created, Hold{
				HoldID:         p.HoldID,
				SKU:            p.SKU,
				Qty:            p.Qty,
				UserID:         p.UserID,
				Status:         holdActive,
				ExpiresAt:      e.At.Add(time.Duration(p.TTLMs) * time.Millisecond),
				CreatedAt:      e.At,
				IdempotencyKey: p.IdempotencyKey,
				Pool:           e.Pool,
			})
		case *events.HoldConfirmed:
			c.end(e.Pool, p.HoldID, holdConfirmed)
		case *events.HoldCancelled:
			c.end(e.Pool, p.HoldID, string(events.CancelledStatus(p.Reason)))
		}
	}
	return c
}

// end sets the final status of a hold. If the hold ended before in this batch, the second
// end goes to the database, where the update finds no active row and fails.
func (c *holdChanges) end(pool, holdID, status string) {
	i, inBatch := c.createdIndex[holdID]
	if inBatch && c.created[i].Status == holdActive {
		c.created[i].Status = status
		return
	}
	c.endedIDs = append(c.endedIDs, holdID)
	c.endedPools = append(c.endedPools, pool)
	c.endedStatuses = append(c.endedStatuses, status)
}

// The SQL.

func (c *holdChanges) write(ctx context.Context, tx pgx.Tx) error {
	if err := c.insertCreated(ctx, tx); err != nil {
		return fmt.Errorf("insert holds: %w", err)
	}
	if err := c.updateEnded(ctx, tx); err != nil {
		return fmt.Errorf("end holds: %w", err)
	}
	return nil
}

func (c *holdChanges) insertCreated(ctx context.Context, tx pgx.Tx) error {
	if len(c.created) == 0 {
		return nil
	}
	columns := []string{
		"hold_id",
		"sku",
		"qty",
		"user_id",
		"status",
		"expires_at",
		"created_at",
		"idempotency_key",
		"pool",
	}
	rows := pgx.CopyFromSlice(len(c.created), func(i int) ([]any, error) {
		h := &c.created[i]
		return []any{
			h.HoldID,
			h.SKU,
			h.Qty,
			h.UserID,
			h.Status,
			h.ExpiresAt,
			h.CreatedAt,
			h.IdempotencyKey,
			h.Pool,
		}, nil
	})
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"holds"}, columns, rows)
	return err
}

// updateEnded fails if a hold does not exist or has ended before. The engine then parks
// the event that ends it.
func (c *holdChanges) updateEnded(ctx context.Context, tx pgx.Tx) error {
	if len(c.endedIDs) == 0 {
		return nil
	}
	const update = `
		UPDATE holds SET status = ended.status FROM unnest($1::text[], $2::text[], $3::text[]) AS ended (hold_id, pool, status)
		WHERE holds.hold_id = ended.hold_id AND holds.pool = ended.pool AND holds.status = 'ACTIVE'`
	tag, err := tx.Exec(ctx, update, c.endedIDs, c.endedPools, c.endedStatuses)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != int64(len(c.endedIDs)) {
		return fmt.Errorf("only %d of %d holds exist and are active", tag.RowsAffected(), len(c.endedIDs))
	}
	return nil
}

// FindHold returns the hold of a pool with an id, or ErrNotFound.
func FindHold(ctx context.Context, db postgres.Querier, pool, holdID string) (Hold, error) {
	const query = `
		SELECT hold_id, sku, qty, user_id, status, expires_at, created_at, idempotency_key, pool FROM holds
		WHERE hold_id = $1 AND pool = $2`
	return queryOne[Hold](ctx, db, "find hold", query, holdID, pool)
}
