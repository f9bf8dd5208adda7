package audit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// compareOver compares the hours that are over with sku_hours, and lets go of those that agree. Any state from the
// audit's end on will do.
func (a *auditor) compareOver(ctx context.Context) error {
	keys := a.expected.hours.over()
	if len(keys) == 0 {
		return nil
	}
	if !a.comparable[tableHours] { // which was noted
		for _, key := range keys {
			a.expected.hours.drop(key)
		}
		return nil
	}
	return a.inSnapshot(ctx, a.conns.hours, tableHours, a.end, func(tx pgx.Tx, _ int64) error {
		return a.eachHour(ctx, tx, keys, func(key hourKey, _ hourUnits, agrees bool) {
			if agrees {
				a.expected.hours.drop(key)
			}
		})
	})
}

// compareHours compares the hours that are left with sku_hours, at its exact checkpoint.
func (a *auditor) compareHours(ctx context.Context, tx pgx.Tx, seq int64) error {
	var suspects []divergence
	err := a.eachHour(ctx, tx, slices.Collect(maps.Keys(a.expected.hours.units)), func(key hourKey, found hourUnits, agrees bool) {
		if agrees {
			return
		}
		d := Difference{Store: tableHours, Kind: KindChanged, Key: key.String(), Expected: hourText(*a.expected.hours.units[key]), Found: hourText(found), Seq: seq}
		if found == (hourUnits{}) {
			d.Kind, d.Found = KindMissing, ""
		}
		suspects = append(suspects, divergence{difference: d, sequenceKey: key.sku})
	})
	if err != nil {
		return err
	}
	return a.judge(ctx, tx, tableHours, suspects)
}

// eachHour reads rows of sku_hours, and says of each whether it agrees with the fold. One that is not there has no units.
func (a *auditor) eachHour(ctx context.Context, tx pgx.Tx, keys []hourKey, say func(key hourKey, found hourUnits, agrees bool)) error {
	for part := range slices.Chunk(keys, rowsChunk) {
		skus, times := make([]string, len(part)), make([]time.Time, len(part))
		for i, key := range part {
			skus[i], times[i] = key.sku, key.time()
		}
		const query = `
			SELECT sku, hour, reserved, sold, cancelled, expired FROM sku_hours
			JOIN unnest($1::text[], $2::timestamptz[]) AS wanted (sku, hour) USING (sku, hour)`
		rows, err := tx.Query(ctx, query, skus, times)
		if err != nil {
			return fmt.Errorf("read sku_hours: %w", err)
		}
		found := make(map[hourKey]hourUnits, len(part))
		var sku string
		var hour time.Time
		var u hourUnits
		_, err = pgx.ForEachRow(rows, []any{&sku, &hour, &u[hourReserved], &u[hourSold], &u[hourCancelled], &u[hourExpired]}, func() error {
			found[hourKey{sku, hour.Unix() / 3600}] = u
			return nil
		})
		if err != nil {
			return fmt.Errorf("read sku_hours: %w", err)
		}
		for _, key := range part {
			say(key, found[key], found[key] == *a.expected.hours.units[key])
		}
	}
	return nil
}

func hourText(u hourUnits) string {
	return fmt.Sprintf("%d reserved, %d sold, %d cancelled, %d expired", u[hourReserved], u[hourSold], u[hourCancelled], u[hourExpired])
}
