package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// position is where the next audit goes on: after the verified seq, this entry of the stream, and the keys that were
// looked at in turn.
type position struct {
	seq        int64
	liveHolds  int64
	streamID   string
	skuCursor  string
	holdCursor string
	hourFloor  int64
}

// Keys that did not change, of which an audit looks at so many beside those that did.
const (
	roundSKUs  = 500
	roundHolds = 1000
)

// recheckMax is how many explained differences are kept for the next audit. With more of them the verified seq stays,
// and the next audit finds them again by itself.
const recheckMax = 10_000

// readBookmark returns where the audit of a pool goes on, zero for one that was never audited.
func readBookmark(ctx context.Context, db events.Querier, pool string) (p position, err error) {
	const query = `SELECT verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor FROM audits WHERE pool = $1`
	err = db.QueryRow(ctx, query, pool).Scan(&p.seq, &p.liveHolds, &p.streamID, &p.skuCursor, &p.holdCursor, &p.hourFloor)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return p, fmt.Errorf("read the verified seq: %w", err)
	}
	return p, nil
}

const selectHolds = `
	SELECT hold_id, sku, qty, user_id, idempotency_key, created_at_ms, expires_at_ms, status, payment_ref, ended_at_ms, ended_seq
	FROM audit_holds WHERE pool = $1 `

func readHolds(ctx context.Context, db events.Querier, condition string, args ...any) ([]*expectedHold, error) {
	rows, err := db.Query(ctx, selectHolds+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("read verified holds: %w", err)
	}
	holds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*expectedHold, error) {
		h := new(expectedHold)
		return h, row.Scan(&h.ID, &h.SKU, &h.Qty, &h.UserID, &h.IdempotencyKey, &h.CreatedAtMs, &h.ExpiresAtMs, &h.Status, &h.PaymentRef, &h.EndedAtMs, &h.EndedSeq)
	})
	if err != nil {
		return nil, fmt.Errorf("read verified holds: %w", err)
	}
	return holds, nil
}

const selectStock = `SELECT sku, received, removed, held, sold FROM audit_skus WHERE pool = $1 `

// readStock adds verified stock to the fold, unless it follows the SKU already. It returns the SKUs in their order.
func readStock(ctx context.Context, db events.Querier, f *expected, condition string, args ...any) ([]string, error) {
	rows, err := db.Query(ctx, selectStock+condition, args...)
	if err != nil {
		return nil, fmt.Errorf("read verified stock: %w", err)
	}
	var sku string
	var s expectedStock
	var found []string
	_, err = pgx.ForEachRow(rows, []any{&sku, &s.Received, &s.Removed, &s.Held, &s.Sold}, func() error {
		if f.stock[sku] == nil {
			stock := s
			f.stock[sku] = &stock
		}
		found = append(found, sku)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read verified stock: %w", err)
	}
	return found, nil
}

// loadPrior adds to the fold what the verified state says of the keys that a page of events is about to change.
func loadPrior(ctx context.Context, db events.Querier, pool string, f *expected, page []journalEvent) error {
	skus, holds, created := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i := range page {
		r := &page[i]
		if f.stock[r.sku] == nil {
			skus[r.sku] = true
		}
		switch {
		case r.kind == events.TypeHoldCreated:
			created[r.hold] = true
		case r.hold != "" && f.holds[r.hold] == nil && !created[r.hold]:
			holds[r.hold] = true
		}
	}
	if len(skus) > 0 {
		if _, err := readStock(ctx, db, f, `AND sku = ANY ($2)`, pool, slices.Collect(maps.Keys(skus))); err != nil {
			return err
		}
	}
	if len(holds) == 0 {
		return nil
	}
	prior, err := readHolds(ctx, db, `AND hold_id = ANY ($2) AND status = 'ACTIVE'`, pool, slices.Collect(maps.Keys(holds)))
	for _, hold := range prior {
		f.holds[hold.ID] = hold
		f.gone[hold.ID] = true
	}
	return err
}

// loadRechecks adds the keys that the last audit found different for a known reason. Holds that had ended go to the
// ended ones of the fold.
func loadRechecks(ctx context.Context, db events.Querier, pool string, f *expected) error {
	if _, err := readStock(ctx, db, f, `AND recheck`, pool); err != nil {
		return err
	}
	holds, err := readHolds(ctx, db, `AND recheck`, pool)
	for _, hold := range holds {
		if hold.Status != statusActive {
			f.ended = append(f.ended, hold)
			continue
		}
		f.holds[hold.ID] = hold
		f.gone[hold.ID] = true // its row is written anew, or no more
	}
	return err
}

// loadHours adds what the verified state says of hours that were not over.
func loadHours(ctx context.Context, db events.Querier, pool string, h *hours, floor int64) error {
	h.floor, h.latest = floor, floor+1
	rows, err := db.Query(ctx, `SELECT sku, hour, reserved, sold, cancelled, expired FROM audit_hours WHERE pool = $1`, pool)
	if err != nil {
		return fmt.Errorf("read verified hours: %w", err)
	}
	var key hourKey
	var u hourUnits
	_, err = pgx.ForEachRow(rows, []any{&key.sku, &key.hour, &u[hourReserved], &u[hourSold], &u[hourCancelled], &u[hourExpired]}, func() error {
		units := u
		h.units[key] = &units
		return nil
	})
	if err != nil {
		return fmt.Errorf("read verified hours: %w", err)
	}
	return nil
}

// loadRound adds keys that have not changed, the next in turn, and moves the cursors.
func loadRound(ctx context.Context, db events.Querier, pool string, f *expected, p *position) error {
	skus, err := readStock(ctx, db, f, `AND sku > $2 ORDER BY sku LIMIT $3`, pool, p.skuCursor, roundSKUs)
	if err != nil {
		return err
	}
	p.skuCursor = ""
	if len(skus) == roundSKUs {
		p.skuCursor = skus[roundSKUs-1]
	}
	holds, err := readHolds(ctx, db, `AND hold_id > $2 AND status = 'ACTIVE' ORDER BY hold_id LIMIT $3`, pool, p.holdCursor, roundHolds)
	if err != nil {
		return err
	}
	p.holdCursor = ""
	if len(holds) == roundHolds {
		p.holdCursor = holds[roundHolds-1].ID
	}
	for _, hold := range holds {
		if !f.gone[hold.ID] && f.holds[hold.ID] == nil {
			f.holds[hold.ID] = hold
		}
	}
	return nil
}
