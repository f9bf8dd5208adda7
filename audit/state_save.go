package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// verifiedState is a copy of the expected state at the audit's end. It is saved if the
// audit finds no difference, or only differences that dead letters explain.
type verifiedState struct {
	full     bool
	position position
	stock    map[string]expectedStock
	holds    []expectedHold
	hours    map[hourKey]hourUnits
	outdated []string // ids of holds whose rows are out of date
}

// copyState copies the expected state, which changes further while keys are compared.
func copyState(e *expected, next position) *verifiedState {
	s := &verifiedState{
		full:     e.full,
		position: next,
		stock:    make(map[string]expectedStock, len(e.stock)),
		holds:    make([]expectedHold, 0, len(e.holds)),
		hours:    make(map[hourKey]hourUnits, len(e.hours.units)),
		outdated: slices.Collect(maps.Keys(e.outdated)),
	}
	s.position.seq = e.seq
	s.position.liveHolds = e.totals.live
	s.position.firstIncompleteHour = e.hours.firstIncomplete
	for sku, stock := range e.stock {
		s.stock[sku] = *stock
	}
	for _, hold := range e.holds {
		s.holds = append(s.holds, *hold)
	}
	for key, units := range e.hours.units {
		s.hours[key] = *units
	}
	return s
}

// save replaces the verified state of the pool, in one transaction with the report, and
// marks the keys to recheck.
func (s *verifiedState) save(
	ctx context.Context, conn *pgx.Conn, pool string, recheck recheckKeys, report *Report,
) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := s.deleteRows(ctx, tx, pool); err != nil {
			return fmt.Errorf("save the verified state: %w", err)
		}
		if err := s.saveStock(ctx, tx, pool, recheck); err != nil {
			return fmt.Errorf("save verified stock: %w", err)
		}
		if err := s.saveHolds(ctx, tx, pool, recheck); err != nil {
			return fmt.Errorf("save verified holds: %w", err)
		}
		if err := s.saveHours(ctx, tx, pool); err != nil {
			return fmt.Errorf("save verified hours: %w", err)
		}
		return saveReport(ctx, tx, pool, &s.position, report)
	})
}

// deleteRows deletes the rows of SKUs and holds that save is about to write, and those of
// holds that have ended. After a full audit these are all rows.
func (s *verifiedState) deleteRows(ctx context.Context, tx pgx.Tx, pool string) error {
	if s.full {
		_, err := tx.Exec(ctx, `DELETE FROM audit_skus WHERE pool = $1`, pool)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM audit_holds WHERE pool = $1`, pool)
		}
		return err
	}
	ids := slices.Clone(s.outdated)
	for i := range s.holds {
		ids = append(ids, s.holds[i].ID)
	}
	const deleteSKUs = `DELETE FROM audit_skus WHERE pool = $1 AND sku = ANY ($2)`
	skus := slices.Collect(maps.Keys(s.stock))
	if _, err := tx.Exec(ctx, deleteSKUs, pool, skus); err != nil {
		return err
	}
	const deleteHolds = `DELETE FROM audit_holds WHERE pool = $1 AND (hold_id = ANY ($2) OR recheck)`
	_, err := tx.Exec(ctx, deleteHolds, pool, ids)
	return err
}

func (s *verifiedState) saveStock(ctx context.Context, tx pgx.Tx, pool string, recheck recheckKeys) error {
	var rows [][]any
	for sku, stock := range s.stock {
		rows = append(rows, []any{
			pool,
			sku,
			stock.Received,
			stock.Removed,
			stock.Held,
			stock.Sold,
			recheck.skus[sku],
		})
	}
	columns := []string{"pool", "sku", "received", "removed", "held", "sold", "recheck"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_skus"}, columns, pgx.CopyFromRows(rows))
	return err
}

// saveHolds writes the live holds, and the ended holds to recheck. It leaves out holds
// that were created or ended after the audit's end: the next audit applies their events.
func (s *verifiedState) saveHolds(ctx context.Context, tx pgx.Tx, pool string, recheck recheckKeys) error {
	holds := s.holds
	live := make(map[string]bool, len(holds))
	for i := range holds {
		live[holds[i].ID] = true
	}
	for id, hold := range recheck.holds {
		if !live[id] && hold.Status != statusActive && hold.EndedSeq <= s.position.seq {
			holds = append(holds, *hold)
		}
	}
	columns := []string{
		"pool", "hold_id", "sku", "qty", "user_id", "idempotency_key", "created_at_ms", "expires_at_ms",
		"status", "payment_ref", "ended_at_ms", "ended_seq", "recheck",
	}
	rows := pgx.CopyFromSlice(len(holds), func(i int) ([]any, error) {
		h := &holds[i]
		return []any{
			pool, h.ID, h.SKU, h.Qty, h.UserID, h.IdempotencyKey, h.CreatedAtMs, h.ExpiresAtMs,
			h.Status, h.PaymentRef, h.EndedAtMs, h.EndedSeq, recheck.holds[h.ID] != nil,
		}, nil
	})
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_holds"}, columns, rows)
	return err
}

// saveHours replaces the verified hours: those that are not complete, and those that
// differ and are parked.
func (s *verifiedState) saveHours(ctx context.Context, tx pgx.Tx, pool string) error {
	if _, err := tx.Exec(ctx, `DELETE FROM audit_hours WHERE pool = $1`, pool); err != nil {
		return err
	}
	var rows [][]any
	for key, u := range s.hours {
		rows = append(rows, []any{
			pool,
			key.sku,
			key.hour,
			u[hourReserved],
			u[hourSold],
			u[hourCancelled],
			u[hourExpired],
		})
	}
	columns := []string{"pool", "sku", "hour", "reserved", "sold", "cancelled", "expired"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_hours"}, columns, pgx.CopyFromRows(rows))
	return err
}

// saveReport saves the report, and the position if it is not nil.
func saveReport(ctx context.Context, tx pgx.Tx, pool string, p *position, report *Report) error {
	raw, err := json.Marshal(report)
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	var seq, liveHolds, firstIncompleteHour *int64
	var streamID, lastSKU, lastHold *string
	var verifiedAt *time.Time
	if p != nil {
		seq = &p.seq
		liveHolds = &p.liveHolds
		firstIncompleteHour = &p.firstIncompleteHour
		streamID = &p.streamID
		lastSKU = &p.lastSKU
		lastHold = &p.lastHold
		verifiedAt = &report.StartedAt
	}
	const query = `
		INSERT INTO audits AS a (
		    pool, verified_seq, live_holds, stream_id, sku_cursor, hold_cursor, hour_floor, verified_at, last_at, report)
		VALUES (
		    $1, coalesce($2, 0), coalesce($3, 0), coalesce($4, ''), coalesce($5, ''), coalesce($6, ''), coalesce($9, 0),
		    $7, now(), $8)
		ON CONFLICT (pool) DO UPDATE SET
		    verified_seq = coalesce($2, a.verified_seq),
		    live_holds   = coalesce($3, a.live_holds),
		    stream_id    = coalesce($4, a.stream_id),
		    sku_cursor   = coalesce($5, a.sku_cursor),
		    hold_cursor  = coalesce($6, a.hold_cursor),
		    hour_floor   = coalesce($9, a.hour_floor),
		    verified_at  = coalesce($7, a.verified_at),
		    last_at      = now(),
		    report       = $8`
	args := []any{
		pool, seq, liveHolds, streamID, lastSKU, lastHold, verifiedAt, raw, firstIncompleteHour,
	}
	if _, err := tx.Exec(ctx, query, args...); err != nil {
		return fmt.Errorf("save the report: %w", err)
	}
	return nil
}
