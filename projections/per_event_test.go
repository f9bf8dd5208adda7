package projections

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// SKUHoursPerEvent is sku_hours written with PerEvent. docs/how-to-add-a-projection.md
// starts with it.
func SKUHoursPerEvent() Projection {
	return Projection{
		Name:   "sku_hours",
		Tables: []string{"sku_hours"},
		Schema: skuHoursSchema,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled},
		Key:    BySKU,
		Apply:  PerEvent(countInHour),
	}
}

// countInHour queues the SQL for one event.
func countInHour(e Event, sql *pgx.Batch) error {
	const add = `
		INSERT INTO sku_hours AS h (sku, hour, reserved, sold, cancelled, expired, pool) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (pool, sku, hour) DO UPDATE
		SET reserved = h.reserved + excluded.reserved, sold = h.sold + excluded.sold,
		    cancelled = h.cancelled + excluded.cancelled, expired = h.expired + excluded.expired`
	hour := e.At.UTC().Truncate(time.Hour)
	switch p := e.Payload.(type) {
	case *events.HoldCreated:
		sql.Queue(add, p.SKU, hour, p.Qty, 0, 0, 0, e.Pool)
	case *events.HoldConfirmed:
		sql.Queue(add, p.SKU, hour, 0, p.Qty, 0, 0, e.Pool)
	case *events.HoldCancelled:
		if p.Reason == events.ReasonExpired {
			sql.Queue(add, p.SKU, hour, 0, 0, 0, p.Qty, e.Pool)
		} else {
			sql.Queue(add, p.SKU, hour, 0, 0, p.Qty, 0, e.Pool)
		}
	}
	return nil
}

func TestPerEventAndPerBatchWriteTheSameRows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(
		adjusted(30),
		created("a", 1),
		created("b", 2),
		confirmed("a", 1),
		created("c", 4),
		created("d", 8),
		cancelled("b", 2, events.ReasonRequested),
		cancelled("c", 4, events.ReasonExpired),
		confirmed("d", 8),
	)
	f.exec(`UPDATE events SET at = at + seq * interval '17 minutes'`)
	rowsOf := func(projection Projection) string {
		f.exec(`TRUNCATE sku_hours; DELETE FROM checkpoints WHERE projection = 'sku_hours'`)
		_, stop := f.run(4, projection)
		f.await(projection)
		stop()
		return f.rows("sku_hours")
	}
	perBatch := rowsOf(SKUHours())
	perEvent := rowsOf(SKUHoursPerEvent())
	if perBatch == "" {
		t.Error("per batch: got no rows")
	}
	if perBatch != perEvent {
		t.Errorf("got per batch:\n%s\nand per event:\n%s\nwant the same rows", perBatch, perEvent)
	}
}
