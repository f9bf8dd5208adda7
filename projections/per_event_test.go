package projections

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// SKUHoursPerEvent is sku_hours in the style for ease, as docs/how-to-add-a-projection.md begins with it.
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
		INSERT INTO sku_hours AS h (sku, hour, reserved, sold, cancelled, expired) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (sku, hour) DO UPDATE
		SET reserved = h.reserved + excluded.reserved, sold = h.sold + excluded.sold,
		    cancelled = h.cancelled + excluded.cancelled, expired = h.expired + excluded.expired`
	hour := e.At.UTC().Truncate(time.Hour)
	switch p := e.Payload.(type) {
	case *events.HoldCreated:
		sql.Queue(add, p.SKU, hour, p.Qty, 0, 0, 0)
	case *events.HoldConfirmed:
		sql.Queue(add, p.SKU, hour, 0, p.Qty, 0, 0)
	case *events.HoldCancelled:
		if p.Reason == events.ReasonExpired {
			sql.Queue(add, p.SKU, hour, 0, 0, 0, p.Qty)
		} else {
			sql.Queue(add, p.SKU, hour, 0, 0, p.Qty, 0)
		}
	}
	return nil
}

// TestStyles holds that the two ways in which sku_hours is written come to the same rows.
func TestStyles(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.journal(stocked(30), created("a", 1), created("b", 2), confirmed("a", 1), created("c", 4), created("d", 8),
		cancelled("b", 2, events.ReasonRequested), cancelled("c", 4, events.ReasonExpired), confirmed("d", 8))
	p.exec(`UPDATE events SET at = at + seq * interval '17 minutes'`)
	var tables []string
	for _, projection := range []Projection{SKUHours(), SKUHoursPerEvent()} {
		p.exec(`TRUNCATE sku_hours; DELETE FROM checkpoints WHERE projection = 'sku_hours'`)
		_, stop := p.run(4, projection)
		p.await(projection)
		stop()
		tables = append(tables, p.rows("sku_hours"))
	}
	if tables[0] != tables[1] || tables[0] == "" {
		t.Errorf("per batch:\n%s\nper event:\n%s", tables[0], tables[1])
	}
}
