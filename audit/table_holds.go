package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

// holdsTable compares the read table holds, which has a row for every hold.
var holdsTable = readTable{
	name: "holds",
	compareTracked: func(ctx context.Context, s *tableSnapshot, e *expected) error {
		return compareHoldRows(ctx, s, slices.Collect(maps.Values(e.holds)))
	},
	compareEnded: compareHoldRows,
	rowCount:     func(e *expected) (int64, bool) { return e.totals.holds, true },
	foreignRows: `
		SELECT hold_id FROM holds h WHERE pool = $1 AND NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2
			AND e.payload->>'hold_id' = h.hold_id AND e.type LIKE 'HOLD_CREATED%') LIMIT $3`,
}

func compareHoldRows(ctx context.Context, s *tableSnapshot, holds []*expectedHold) error {
	return matchRows(ctx, s, holds, func(chunk []*expectedHold) (divergences []divergence, err error) {
		rows, err := readHoldRows(ctx, s, chunk)
		if err != nil {
			return nil, err
		}
		for _, hold := range chunk {
			row, exists := rows[hold.ID]
			var d divergence
			switch {
			case !exists:
				d = s.divergence(KindMissing, hold.ID, describeWantedHoldRow(hold), "")
			case !matchHoldRow(hold, &row):
				d = s.divergence(KindChanged, hold.ID, describeWantedHoldRow(hold), describeHoldRow(&row))
			default:
				continue
			}
			d.sequenceKey = hold.ID
			d.hold = hold
			divergences = append(divergences, d)
		}
		return divergences, nil
	})
}

// readHoldRows returns the rows of holds, by hold id.
func readHoldRows(
	ctx context.Context, s *tableSnapshot, holds []*expectedHold,
) (map[string]projections.Hold, error) {
	const query = `
		SELECT hold_id, sku, qty, user_id, status, expires_at, created_at, idempotency_key FROM holds
		WHERE hold_id = ANY ($1) AND pool = $2`
	rows, err := s.tx.Query(ctx, query, holdIDs(holds), s.pool)
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	found := make(map[string]projections.Hold, len(holds))
	var row projections.Hold
	columns := []any{
		&row.HoldID,
		&row.SKU,
		&row.Qty,
		&row.UserID,
		&row.Status,
		&row.ExpiresAt,
		&row.CreatedAt,
		&row.IdempotencyKey,
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		found[row.HoldID] = row
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read holds: %w", err)
	}
	return found, nil
}

func holdIDs(holds []*expectedHold) []string {
	ids := make([]string, len(holds))
	for i, hold := range holds {
		ids[i] = hold.ID
	}
	return ids
}

func matchHoldRow(hold *expectedHold, row *projections.Hold) bool {
	return row.SKU == hold.SKU &&
		row.Qty == hold.Qty &&
		row.UserID == hold.UserID &&
		row.Status == hold.Status &&
		row.ExpiresAt.Equal(time.UnixMilli(hold.ExpiresAtMs)) &&
		row.CreatedAt.Equal(time.UnixMilli(hold.CreatedAtMs)) &&
		row.IdempotencyKey == hold.IdempotencyKey
}

func describeWantedHoldRow(h *expectedHold) string {
	return fmt.Sprintf("%s, %d of %s for %s, from %s until %s, key %s",
		h.Status, h.Qty, h.SKU, h.UserID, clock(h.CreatedAtMs), clock(h.ExpiresAtMs), h.IdempotencyKey)
}

func describeHoldRow(row *projections.Hold) string {
	return fmt.Sprintf("%s, %d of %s for %s, from %s until %s, key %s",
		row.Status, row.Qty, row.SKU, row.UserID,
		clock(row.CreatedAt.UnixMilli()), clock(row.ExpiresAt.UnixMilli()), row.IdempotencyKey)
}
