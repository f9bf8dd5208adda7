package audit

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// appendSales fills the journal with one sale of a shirt every ten minutes, for so many
// hours, and runs the projections. It returns a function that brings Redis and the
// journal's checkpoint to the journal's end, and audits.
func (f *fixture) appendSales(hours int) (audit func(full bool) *Report) {
	f.t.Helper()
	client := testenv.RedisClient(f.t, testenv.Redis(f.t))
	config := testenv.ParseURL(f.t, f.conn.Config().ConnString())
	begin := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	appendAt := func(at time.Time, event events.Event) {
		f.append(event)
		f.exec(`UPDATE events SET at = $2 WHERE seq = $1`, f.seq, at)
	}
	appendAt(begin, &events.StockAdjusted{SKU: "shirt", Delta: 1000, Reason: "delivery"})
	for n := range 6 * hours {
		id := fmt.Sprintf("h%d", n)
		at := begin.Add(time.Duration(n) * 10 * time.Minute)
		appendAt(at, &events.HoldCreated{
			HoldID:         id,
			SKU:            "shirt",
			Qty:            1,
			UserID:         "ann",
			TTLMs:          60_000,
			IdempotencyKey: id,
		})
		appendAt(at, &events.HoldConfirmed{
			HoldID:     id,
			SKU:        "shirt",
			Qty:        1,
			UserID:     "ann",
			PaymentRef: "p" + id,
		})
	}
	testenv.RunRouter(f.t, func(router *message.Router) {
		projections.AddTo(router, projections.Config{
			Postgres: config,
			Pool:     events.MainPool,
			Log:      slog.New(slog.DiscardHandler),
		}, projections.BuiltIn()...)
	})
	return func(full bool) *Report {
		f.t.Helper()
		var sales int64
		const countSales = `SELECT count(*) FROM events WHERE type = 'HOLD_CONFIRMED' AND seq <= $1`
		if err := f.conn.QueryRow(f.ctx, countSales, f.seq).Scan(&sales); err != nil {
			f.t.Fatal(err)
		}
		f.exec(`
			INSERT INTO checkpoints VALUES ('journal', 'main', $1)
			ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, f.seq)
		client.Set(f.ctx, "stock:shirt", 1000-sales, 0)
		client.HSet(f.ctx, "inventory.meta", "epoch", 1, "seq", f.seq, "stock:shirt", 1000-sales)
		report, err := Run(f.ctx, Config{
			Postgres: config,
			Redis:    client,
			Pool:     events.MainPool,
		}, full)
		if err != nil {
			f.t.Fatal(err)
		}
		return report
	}
}

// TestCompleteHoursAreComparedAndForgotten audits 30 hours of sales. It checks three
// rules: hours that are complete are compared and not kept; an hour that differs is found
// by every audit; neither an event whose clock was behind nor another pool's row is a
// difference.
func TestCompleteHoursAreComparedAndForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	audit := f.appendSales(30)
	if report := audit(false); !report.OK {
		t.Fatalf("first audit: got %+v, want it clean", report)
	}
	var kept int
	if err := f.conn.QueryRow(f.ctx, `SELECT count(*) FROM audit_hours`).Scan(&kept); err != nil {
		t.Error(err)
	}
	if kept != 2 {
		t.Errorf("got %d hours kept, want the last 2", kept)
	}

	f.exec(`UPDATE sku_hours SET sold = sold + 1 WHERE hour = '2026-01-02T05:00Z'`)
	for range 2 {
		report := audit(true)
		if report.Differences.Count != 1 {
			t.Errorf("an hour that differs: got %+v, want 1 difference", report)
			continue
		}
		got := report.Differences.First[0]
		if got.Store != "sku_hours" {
			t.Errorf("an hour that differs: got a difference of %q, want sku_hours", got.Store)
		}
		if got.Key != "shirt 2026-01-02T05:00:00Z" {
			t.Errorf("an hour that differs: got key %q, want shirt 2026-01-02T05:00:00Z", got.Key)
		}
	}
	f.exec(`UPDATE sku_hours SET sold = sold - 1 WHERE hour = '2026-01-02T05:00Z'`)

	verified := f.seq
	payload := `{"hold_id":"late","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":60000,"idempotency_key":"late","payment_ref":"p"}`
	earlier := time.Date(2026, 1, 2, 4, 30, 0, 0, time.UTC)
	f.appendRawAt(earlier, events.TypeHoldCreated, payload)
	f.appendRawAt(earlier, events.TypeHoldConfirmed, payload)
	for _, full := range []bool{false, true} {
		report := audit(full)
		if !report.OK {
			t.Errorf("a clock that was behind (full: %t): got %+v, want it clean", full, report)
		}
		if !full && report.From != verified {
			t.Errorf("a clock that was behind: got an audit from seq %d, want %d", report.From, verified)
		}
	}

	// Main's rows are written by now. The other names sort before and after it.
	for _, pool := range []string{"eu", "us"} {
		f.exec(`INSERT INTO holds SELECT $1 || hold_id, sku, qty, user_id, status, expires_at, created_at, '', $1 FROM holds`, pool)
		f.exec(`
			INSERT INTO orders SELECT $1 || order_id, $1 || hold_id, user_id, sku, qty, status, '', created_at, $1 FROM orders`, pool)
		f.exec(`INSERT INTO stock_levels SELECT sku, available + 1, held, sold, $1 FROM stock_levels WHERE pool = 'main'`, pool)
		f.exec(`
			INSERT INTO sku_hours SELECT sku, hour, reserved + 1, sold, cancelled, expired, $1 FROM sku_hours WHERE pool = 'main'`,
			pool)
	}
	if report := audit(true); !report.OK {
		t.Errorf("rows of other pools: got %+v, want it clean", report)
	}
}
