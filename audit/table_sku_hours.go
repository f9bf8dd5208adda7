package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// skuHoursTable compares the read table sku_hours, which has a row for every SKU and hour
// with an event of a hold.
var skuHoursTable = readTable{
	name:           "sku_hours",
	compareTracked: compareHourRows,
	rowCount:       func(e *expected) (int64, bool) { return e.hours.rowCount() },
	foreignRows: `
		SELECT sku || ' ' || to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM sku_hours s
		WHERE pool = $1 AND NOT EXISTS (
			SELECT FROM events e WHERE e.pool = $1 AND e.seq <= $2 AND e.payload->>'sku' = s.sku AND e.type LIKE 'HOLD%'
			AND e.at >= s.hour AND e.at < s.hour + interval '1 hour') LIMIT $3`,
}

// compareHourRows compares the hours that are still tracked: those that are not complete,
// and those that differed when they were.
func compareHourRows(ctx context.Context, s *tableSnapshot, e *expected) error {
	keys := slices.Collect(maps.Keys(e.hours.units))
	return matchRows(ctx, s, keys, func(keys []hourKey) (divergences []divergence, err error) {
		rows, err := readHourRows(ctx, s, keys)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			want := *e.hours.units[key]
			row := rows[key]
			var d divergence
			switch row {
			case want:
				continue
			case hourUnits{}:
				d = s.divergence(KindMissing, key.String(), want.describe(), "")
			default:
				d = s.divergence(KindChanged, key.String(), want.describe(), row.describe())
			}
			d.sequenceKey = key.sku
			divergences = append(divergences, d)
		}
		return divergences, nil
	})
}

// compareCompleteHours compares the hours that have become complete, and forgets those
// that agree. Any seq from the audit's end on will do. It runs while the journal is
// applied, so that memory does not grow with history.
func (a *auditor) compareCompleteHours(ctx context.Context) error {
	keys := a.expected.hours.takeComplete()
	if len(keys) == 0 {
		return nil
	}
	if !a.comparable[skuHoursTable.name] { // awaitProjections has reported it
		for _, key := range keys {
			a.expected.hours.forget(key)
		}
		return nil
	}
	return a.inSnapshot(ctx, a.conns.hours, skuHoursTable.name, a.end, func(s *tableSnapshot) error {
		return matchRows(ctx, s, keys, func(keys []hourKey) ([]divergence, error) {
			rows, err := readHourRows(ctx, s, keys)
			if err != nil {
				return nil, err
			}
			for _, key := range keys {
				if rows[key] == *a.expected.hours.units[key] {
					a.expected.hours.forget(key)
				}
			}
			return nil, nil
		})
	})
}

// readHourRows returns rows of sku_hours. A key without a row has no units.
func readHourRows(ctx context.Context, s *tableSnapshot, keys []hourKey) (map[hourKey]hourUnits, error) {
	skus := make([]string, len(keys))
	times := make([]time.Time, len(keys))
	for i, key := range keys {
		skus[i] = key.sku
		times[i] = key.time()
	}
	const query = `
		SELECT sku, hour, reserved, sold, cancelled, expired FROM sku_hours
		JOIN unnest($1::text[], $2::timestamptz[]) AS wanted (sku, hour) USING (sku, hour) WHERE pool = $3`
	rows, err := s.tx.Query(ctx, query, skus, times, s.pool)
	if err != nil {
		return nil, fmt.Errorf("read sku_hours: %w", err)
	}
	found := make(map[hourKey]hourUnits, len(keys))
	var sku string
	var hour time.Time
	var units hourUnits
	columns := []any{
		&sku, &hour, &units[hourReserved], &units[hourSold], &units[hourCancelled], &units[hourExpired],
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		found[hourKey{sku: sku, hour: hour.Unix() / 3600}] = units
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read sku_hours: %w", err)
	}
	return found, nil
}

func (u hourUnits) describe() string {
	return fmt.Sprintf("%d reserved, %d sold, %d cancelled, %d expired",
		u[hourReserved], u[hourSold], u[hourCancelled], u[hourExpired])
}
