package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// verifiedState is what will be kept, should everything agree: a copy of the fold at the audit's end.
type verifiedState struct {
	full     bool
	bookmark position
	stock    map[string]expectedStock
	holds    []expectedHold
	hours    map[hourKey]hourUnits
	gone     []string
}

func stateToVerify(f *expected, full bool, p position) *verifiedState {
	s := &verifiedState{full: full, bookmark: p, stock: make(map[string]expectedStock, len(f.stock)), holds: make([]expectedHold, 0, len(f.holds))}
	s.bookmark.seq, s.bookmark.liveHolds = f.seq, f.totals.live
	for sku, stock := range f.stock {
		s.stock[sku] = *stock
	}
	for _, hold := range f.holds {
		s.holds = append(s.holds, *hold)
	}
	s.bookmark.hourFloor, s.hours = f.hours.floor, make(map[hourKey]hourUnits, len(f.hours.units))
	for key, units := range f.hours.units {
		s.hours[key] = *units
	}
	s.gone = slices.Collect(maps.Keys(f.gone))
	return s
}

// save keeps it in the place of the one before, in one transaction with the report. What is to be looked at again is
// marked.
func (s *verifiedState) save(ctx context.Context, conn *pgx.Conn, pool string, again recheck, report *Report) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := s.clear(ctx, tx, pool); err != nil {
			return fmt.Errorf("save the verified state: %w", err)
		}
		var rows [][]any
		for sku, stock := range s.stock {
			rows = append(rows, []any{pool, sku, stock.Received, stock.Removed, stock.Held, stock.Sold, again.skus[sku]})
		}
		columns := []string{"pool", "sku", "received", "removed", "held", "sold", "recheck"}
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_skus"}, columns, pgx.CopyFromRows(rows)); err != nil {
			return fmt.Errorf("save verified stock: %w", err)
		}
		if err := s.saveHolds(ctx, tx, pool, again); err != nil {
			return fmt.Errorf("save verified holds: %w", err)
		}
		if err := saveHours(ctx, tx, pool, s.hours); err != nil {
			return fmt.Errorf("save verified hours: %w", err)
		}
		return saveReport(ctx, tx, pool, &s.bookmark, report)
	})
}

// clear removes the rows that are about to be written, and those of holds that are no more.
func (s *verifiedState) clear(ctx context.Context, tx pgx.Tx, pool string) error {
	if s.full {
		_, err := tx.Exec(ctx, `DELETE FROM audit_skus WHERE pool = $1`, pool)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM audit_holds WHERE pool = $1`, pool)
		}
		return err
	}
	ids := slices.Clone(s.gone)
	for i := range s.holds {
		ids = append(ids, s.holds[i].ID)
	}
	skus := slices.Collect(maps.Keys(s.stock))
	if _, err := tx.Exec(ctx, `DELETE FROM audit_skus WHERE pool = $1 AND sku = ANY ($2)`, pool, skus); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `DELETE FROM audit_holds WHERE pool = $1 AND (hold_id = ANY ($2) OR recheck)`, pool, ids)
	return err
}

func (s *verifiedState) saveHolds(ctx context.Context, tx pgx.Tx, pool string, again recheck) error {
	holds := s.holds
	live := make(map[string]bool, len(holds))
	for i := range holds {
		live[holds[i].ID] = true
	}
	for id, hold := range again.holds {
		// One that was made or that ended after the audit's end is looked at again in any case.
		if !live[id] && hold.Status != statusActive && hold.EndedSeq <= s.bookmark.seq {
			holds = append(holds, *hold)
		}
	}
	columns := []string{"pool", "hold_id", "sku", "qty", "user_id", "idempotency_key", "created_at_ms", "expires_at_ms", "status", "payment_ref", "ended_at_ms", "ended_seq", "recheck"}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_holds"}, columns, pgx.CopyFromSlice(len(holds), func(i int) ([]any, error) {
		h := &holds[i]
		return []any{pool, h.ID, h.SKU, h.Qty, h.UserID, h.IdempotencyKey, h.CreatedAtMs, h.ExpiresAtMs, h.Status, h.PaymentRef, h.EndedAtMs, h.EndedSeq, again.holds[h.ID] != nil}, nil
	}))
	return err
}

// saveHours replaces the hours of the verified state: those that are not over, and those that differ for a known reason.
func saveHours(ctx context.Context, tx pgx.Tx, pool string, verified map[hourKey]hourUnits) error {
	if _, err := tx.Exec(ctx, `DELETE FROM audit_hours WHERE pool = $1`, pool); err != nil {
		return err
	}
	var rows [][]any
	for key, u := range verified {
		rows = append(rows, []any{pool, key.sku, key.hour, u[hourReserved], u[hourSold], u[hourCancelled], u[hourExpired]})
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"audit_hours"}, []string{"pool", "sku", "hour", "reserved", "sold", "cancelled", "expired"}, pgx.CopyFromRows(rows))
	return err
}
