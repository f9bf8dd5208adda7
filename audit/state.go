package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// position is where the next audit starts.
type position struct {
	seq                 int64  // the verified seq
	liveHolds           int64  // how many holds were live at seq
	streamID            string // the last entry of the stream that was compared; "" if none
	lastSKU             string // the last unchanged SKU that was compared in turn; "" to begin with the first
	lastHold            string // likewise the id of the last hold
	firstIncompleteHour int64  // see hours
}

// How many unchanged keys an audit compares, in turn, beside those that changed.
const (
	unchangedSKUs  = 500
	unchangedHolds = 1000
)

// recheckMax is how many parked differences an audit saves for the next one. If there are
// more, the verified state is not replaced, and the next audit finds them again by
// itself.
const recheckMax = 10_000

// readPosition returns where the next audit of a pool starts: the zero position if it was
// never audited.
func readPosition(ctx context.Context, db postgres.Querier, pool string) (p position, err error) {
	const query = `
		SELECT verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor
		FROM audits WHERE pool = $1`
	row := db.QueryRow(ctx, query, pool)
	err = row.Scan(&p.seq, &p.liveHolds, &p.streamID, &p.lastSKU, &p.lastHold, &p.firstIncompleteHour)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("read the verified seq: %w", err)
	}
	return p, nil
}

const selectHolds = `
	SELECT hold_id, sku, qty, user_id, idempotency_key, created_at_ms, expires_at_ms,
	       status, payment_ref, ended_at_ms, ended_seq
	FROM audit_holds WHERE pool = $1 `

// readHolds returns the verified holds of a pool that meet a condition.
func readHolds(
	ctx context.Context, db postgres.Querier, condition string, args ...any,
) ([]*expectedHold, error) {
	rows, err := db.Query(ctx, selectHolds+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("read verified holds: %w", err)
	}
	holds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*expectedHold, error) {
		h := new(expectedHold)
		return h, row.Scan(
			&h.ID, &h.SKU, &h.Qty, &h.UserID, &h.IdempotencyKey, &h.CreatedAtMs, &h.ExpiresAtMs,
			&h.Status, &h.PaymentRef, &h.EndedAtMs, &h.EndedSeq,
		)
	})
	if err != nil {
		return nil, fmt.Errorf("read verified holds: %w", err)
	}
	return holds, nil
}

const selectStock = `SELECT sku, received, removed, held, sold FROM audit_skus WHERE pool = $1 `

// loadStock adds the verified stock of SKUs that meet a condition, unless it is tracked
// already. It returns the SKUs, in the order of the query.
func loadStock(
	ctx context.Context, db postgres.Querier, e *expected, condition string, args ...any,
) ([]string, error) {
	rows, err := db.Query(ctx, selectStock+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("read verified stock: %w", err)
	}
	var sku string
	var row expectedStock
	var skus []string
	columns := []any{&sku, &row.Received, &row.Removed, &row.Held, &row.Sold}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		if e.stock[sku] == nil {
			stock := row
			e.stock[sku] = &stock
		}
		skus = append(skus, sku)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read verified stock: %w", err)
	}
	return skus, nil
}

// loadChangedKeys adds the verified state of the keys that a page of events is about to
// change.
func loadChangedKeys(
	ctx context.Context, db postgres.Querier, pool string, e *expected, page []journalEvent,
) error {
	skus := map[string]bool{}
	holds := map[string]bool{}
	created := map[string]bool{}
	for i := range page {
		event := &page[i]
		if e.stock[event.sku] == nil {
			skus[event.sku] = true
		}
		switch {
		case event.eventType == events.TypeHoldCreated:
			created[event.hold] = true
		case event.hold != "" && e.holds[event.hold] == nil && !created[event.hold]:
			holds[event.hold] = true
		}
	}
	if len(skus) > 0 {
		changed := slices.Collect(maps.Keys(skus))
		if _, err := loadStock(ctx, db, e, `AND sku = ANY ($2)`, pool, changed); err != nil {
			return err
		}
	}
	if len(holds) == 0 {
		return nil
	}
	verified, err := readHolds(ctx, db, `AND hold_id = ANY ($2) AND status = 'ACTIVE'`,
		pool, slices.Collect(maps.Keys(holds)))
	for _, hold := range verified {
		e.holds[hold.ID] = hold
		e.outdated[hold.ID] = true
	}
	return err
}

// loadRecheckKeys adds the keys for which the last audit found a difference that a dead
// letter explains.
func loadRecheckKeys(ctx context.Context, db postgres.Querier, pool string, e *expected) error {
	if _, err := loadStock(ctx, db, e, `AND recheck`, pool); err != nil {
		return err
	}
	holds, err := readHolds(ctx, db, `AND recheck`, pool)
	for _, hold := range holds {
		if hold.Status != statusActive {
			e.ended = append(e.ended, hold)
			continue
		}
		e.holds[hold.ID] = hold
		e.outdated[hold.ID] = true
	}
	return err
}

// loadHours adds the verified hours: those that were not complete.
func loadHours(ctx context.Context, db postgres.Querier, pool string, h *hours, firstIncomplete int64) error {
	h.firstIncomplete = firstIncomplete
	h.latest = firstIncomplete + 1
	rows, err := db.Query(ctx,
		`SELECT sku, hour, reserved, sold, cancelled, expired FROM audit_hours WHERE pool = $1`, pool)
	if err != nil {
		return fmt.Errorf("read verified hours: %w", err)
	}
	var key hourKey
	var row hourUnits
	columns := []any{
		&key.sku, &key.hour, &row[hourReserved], &row[hourSold], &row[hourCancelled], &row[hourExpired],
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		units := row
		h.units[key] = &units
		return nil
	})
	if err != nil {
		return fmt.Errorf("read verified hours: %w", err)
	}
	return nil
}

// loadNextInTurn adds keys that have not changed, the next in turn, and moves the
// position past them. After the last key it begins with the first again. In this way
// every key is compared from time to time, even if no event changes it.
func loadNextInTurn(ctx context.Context, db postgres.Querier, pool string, e *expected, p *position) error {
	skus, err := loadStock(ctx, db, e, `AND sku > $2 ORDER BY sku LIMIT $3`, pool, p.lastSKU, unchangedSKUs)
	if err != nil {
		return err
	}
	p.lastSKU = ""
	if len(skus) == unchangedSKUs {
		p.lastSKU = skus[unchangedSKUs-1]
	}
	const nextHolds = `AND hold_id > $2 AND status = 'ACTIVE' ORDER BY hold_id LIMIT $3`
	holds, err := readHolds(ctx, db, nextHolds, pool, p.lastHold, unchangedHolds)
	if err != nil {
		return err
	}
	p.lastHold = ""
	if len(holds) == unchangedHolds {
		p.lastHold = holds[unchangedHolds-1].ID
	}
	for _, hold := range holds {
		if !e.outdated[hold.ID] && e.holds[hold.ID] == nil {
			e.holds[hold.ID] = hold
		}
	}
	return nil
}
