package audit

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// sold is a shop that sells one shirt every ten minutes, to people who pay at once. It returns what audits it, once Redis
// has what it would have of the journal as it then is.
func (j *journal) sold(hoursMax int) (audit func(full bool) *Report) {
	j.t.Helper()
	client := testenv.RedisClient(j.t, testenv.Redis(j.t))
	config := testenv.ParseURL(j.t, j.conn.Config().ConnString())
	begin := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	add := func(at time.Time, event events.Event) {
		payload, err := json.Marshal(event)
		if err != nil {
			j.t.Fatal(err)
		}
		j.append(event.Type(), string(payload))
		j.exec(`UPDATE events SET at = $2 WHERE seq = $1`, j.seq, at)
	}
	add(begin, &events.StockAdjusted{SKU: "shirt", Delta: 1000, Reason: "delivery"})
	for n := range 6 * hoursMax {
		id, at := fmt.Sprintf("h%d", n), begin.Add(time.Duration(n)*10*time.Minute)
		add(at, &events.HoldCreated{HoldID: id, SKU: "shirt", Qty: 1, UserID: "ann", TTLMs: 60_000, IdempotencyKey: id})
		add(at, &events.HoldConfirmed{HoldID: id, SKU: "shirt", Qty: 1, UserID: "ann", PaymentRef: "p" + id})
	}
	testenv.RunRouter(j.t, func(router *message.Router) {
		projections.AddTo(router, projections.Config{Postgres: config, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}, projections.BuiltIn()...)
	})
	return func(full bool) *Report {
		j.t.Helper()
		var sales int64
		if err := j.conn.QueryRow(j.ctx, `SELECT count(*) FROM events WHERE type = 'HOLD_CONFIRMED' AND seq <= $1`, j.seq).Scan(&sales); err != nil {
			j.t.Fatal(err)
		}
		j.exec(`INSERT INTO checkpoints VALUES ('journal', 'main', $1) ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, j.seq)
		client.Set(j.ctx, "stock:shirt", 1000-sales, 0)
		client.HSet(j.ctx, "inventory.meta", "epoch", 1, "seq", j.seq, "stock:shirt", 1000-sales)
		report, err := Run(j.ctx, Config{Postgres: config, Redis: client, Pool: events.MainPool}, full)
		if err != nil {
			j.t.Fatal(err)
		}
		return report
	}
}

func (j *journal) exec(sql string, args ...any) {
	j.t.Helper()
	if _, err := j.conn.Exec(j.ctx, sql, args...); err != nil {
		j.t.Fatalf("%s: %v", sql, err)
	}
}

// TestHoursAreLetGo audits a day and then some, and holds that hours which are over are compared and not kept, that one
// which differs is found for as long as it does, and that an event whose clock is behind raises no alarm.
func TestHoursAreLetGo(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	audit := j.sold(30)
	if report := audit(false); !report.OK {
		t.Fatalf("got %+v, want it clean", report)
	}
	var kept int
	if err := j.conn.QueryRow(j.ctx, `SELECT count(*) FROM audit_hours`).Scan(&kept); err != nil || kept != 2 {
		t.Errorf("%d hours are kept (%v), want the last two", kept, err)
	}
	j.exec(`UPDATE sku_hours SET sold = sold + 1 WHERE hour = '2026-01-02T05:00Z'`)
	for range 2 {
		report := audit(true)
		if got := report.Differences.First; report.Differences.Count != 1 || got[0].Store != "sku_hours" || got[0].Key != "shirt 2026-01-02T05:00:00Z" {
			t.Errorf("got %+v, want the hour at 5", report)
		}
	}
	j.exec(`UPDATE sku_hours SET sold = sold - 1 WHERE hour = '2026-01-02T05:00Z'`)
	payload := `{"hold_id":"late","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":60000,"idempotency_key":"late","payment_ref":"p"}`
	next := j.seq + 1
	for _, kind := range []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed} {
		j.append(kind, payload)
	}
	j.exec(`UPDATE events SET at = '2026-01-02T04:30Z' WHERE seq >= $1`, next)
	for _, full := range []bool{false, true} {
		if report := audit(full); !report.OK || !full && report.From != next-1 {
			t.Errorf("a clock that is behind (full: %t): got %+v, want it clean", full, report)
		}
	}
}

// TestFoldSettles holds what a fold follows before and after the audit's end.
func TestFoldSettles(t *testing.T) {
	t.Parallel()
	var found []Difference
	f := newExpected(false, func(d Difference) { found = append(found, d) })
	seq := int64(0)
	apply := func(kind events.Type, hold string, qty int64) {
		seq++
		f.apply(&journalEvent{seq: seq, kind: kind, sku: "shirt", hold: hold, qty: qty, ref: "r", user: "ann", ttlMs: 5, atMs: 100 + seq})
	}
	apply(events.TypeStockAdjusted, "", 10)
	apply(events.TypeStockAdjusted, "", -1)
	apply(events.TypeHoldCreated, "a", 2)
	apply(events.TypeHoldCreated, "b", 3)
	apply(events.TypeHoldConfirmed, "a", 2)
	if want := (expectedStock{Received: 10, Removed: 1, Held: 3, Sold: 2}); *f.stock["shirt"] != want || want.Available() != 4 {
		t.Errorf("got %+v, want %+v with 4 available", *f.stock["shirt"], want)
	}
	if len(f.ended) != 1 || f.ended[0].Status != statusConfirmed || f.ended[0].EndedSeq != 5 || f.ended[0].PaymentRef != "r" || f.holds["b"] == nil || len(f.holds) != 1 {
		t.Errorf("got %+v ended and %+v live", f.ended, f.holds)
	}
	f.settled = true
	apply(events.TypeHoldCreated, "c", 1)
	apply(events.TypeHoldCancelled, "c", 1)
	apply(events.TypeHoldCancelled, "b", 3)
	if f.holds["c"] != nil || f.holds["b"].Status != statusCancelled || f.totals.live != 0 || len(found) != 0 {
		t.Errorf("settled: got %+v, %+v and %+v", f.holds, f.totals, found)
	}
	apply(events.TypeHoldCancelled, "b", 3)
	f.apply(&journalEvent{seq: 99, kind: events.TypeStockAdjusted, sku: "shirt", qty: -50})
	var kinds []Kind
	for _, d := range found {
		kinds = append(kinds, d.Kind)
	}
	if !slices.Equal(kinds, []Kind{KindImpossible, KindHole, KindImpossible}) {
		t.Errorf("got %+v, want an end of what has ended, a hole, and stock below zero", found)
	}
}
