package commands

import (
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
)

// TestLifeOfAHold follows a hold to an order, and another to its cancellation, through answers, keys and events.
func TestLifeOfAHold(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 3)

	request := Reserve{SKU: "shirt", Qty: 2, UserID: "ann", TTL: 90 * time.Second, IdempotencyKey: "k1"}
	first, err := s.Reserve(s.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	if first.Status != HoldActive || first.Replayed || first.Position.String() != "main:2" ||
		first.ExpiresIn != 90*time.Second || time.Until(first.ExpiresAt) > 91*time.Second {
		t.Errorf("reserve: got %+v", first)
	}
	s.wantStock(t, "shirt", 1)

	order, err := s.Confirm(s.ctx, Confirm{HoldID: first.HoldID, PaymentRef: "pay-1"})
	if err != nil {
		t.Fatal(err)
	}
	want := Confirmation{
		OrderID: "ord_" + first.HoldID, HoldID: first.HoldID, SKU: "shirt", Qty: 2, UserID: "ann", PaymentRef: "pay-1",
		Position: events.Position{Pool: "main", Seq: 3},
	}
	if order != want {
		t.Errorf("confirm: got %+v, want %+v", order, want)
	}

	second := s.hold("shirt", 1)
	ended, err := s.Cancel(s.ctx, Cancel{HoldID: second})
	if err != nil {
		t.Fatal(err)
	}
	if ended.Status != HoldCancelled || ended.Qty != 1 || ended.Position.Seq != 5 || ended.Replayed {
		t.Errorf("cancel: got %+v", ended)
	}
	s.wantStock(t, "shirt", 1)

	log := s.log()
	if len(log) != 5 {
		t.Fatalf("the log has %d events, want 5", len(log))
	}
	created, isCreated := log[1].event.(*events.HoldCreated)
	if !isCreated || *created != (events.HoldCreated{HoldID: first.HoldID, SKU: "shirt", Qty: 2, UserID: "ann", TTLMs: 90_000, IdempotencyKey: "k1"}) {
		t.Errorf("event 2: got %+v", log[1].event)
	}
	cancelledEvent, isCancelled := log[4].event.(*events.HoldCancelled)
	if !isCancelled || *cancelledEvent != (events.HoldCancelled{HoldID: second, SKU: "shirt", Qty: 1, UserID: "ann", Reason: "requested"}) {
		t.Errorf("event 5: got %+v", log[4].event)
	}
	if live := s.operator.ZCard(s.ctx, s.pool.DueKey()).Val(); live != 0 {
		t.Errorf("holds:due has %d holds, want none: both have ended", live)
	}
}

// TestRepeats holds that the same command again gives the same answer, and adds nothing, however the hold has ended.
func TestRepeats(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 10)
	request := s.request("shirt", 2)
	first, err := s.Reserve(s.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name   string
		do     func() error
		status HoldStatus
	}{
		{"active", func() error { return nil }, HoldActive},
		{"confirmed", func() error {
			return ignore(s.Confirm(s.ctx, Confirm{HoldID: first.HoldID, PaymentRef: "p"}))
		}, HoldConfirmed},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		before := s.dump()
		again, err := s.Reserve(s.ctx, request)
		if err != nil || again.HoldID != first.HoldID || !again.Replayed || again.Status != step.status ||
			again.Position != first.Position || !again.ExpiresAt.Equal(first.ExpiresAt) {
			t.Errorf("%s, reserve again: got %+v (%v), want the hold %+v", step.name, again, err, first)
		}
		s.wantUnchanged(t, before)
	}

	before := s.dump()
	order, err := s.Confirm(s.ctx, Confirm{HoldID: first.HoldID, PaymentRef: "p"})
	if err != nil || !order.Replayed || order.Position.Seq != 3 {
		t.Errorf("confirm again: got %+v (%v), want the same order, replayed, at seq 3", order, err)
	}
	s.wantUnchanged(t, before)

	cancelledHold := s.hold("shirt", 1)
	for i, replayed := range []bool{false, true} {
		c, err := s.Cancel(s.ctx, Cancel{HoldID: cancelledHold})
		if err != nil || c.Replayed != replayed || c.Position.Seq != 5 {
			t.Errorf("cancel, time %d: got %+v (%v), want seq 5, replayed %t", i+1, c, err, replayed)
		}
	}

	due := s.hold("shirt", 1)
	s.makeDue(due)
	for i, replayed := range []bool{false, true} {
		c, err := s.Cancel(s.ctx, Cancel{HoldID: due, Expired: true})
		if err != nil || c.Status != HoldExpired || c.Replayed != replayed {
			t.Errorf("expire, time %d: got %+v (%v), want EXPIRED, replayed %t", i+1, c, err, replayed)
		}
	}

	adjust := AdjustStock{SKU: "shirt", Delta: 5, Reason: "found", IdempotencyKey: "adj"}
	for i, replayed := range []bool{false, true} {
		a, err := s.AdjustStock(s.ctx, adjust)
		if err != nil || a.Available != 13 || a.Replayed != replayed {
			t.Errorf("adjust, time %d: got %+v (%v), want 13 available, replayed %t", i+1, a, err, replayed)
		}
	}
	s.wantStock(t, "shirt", 13)
}

// TestStockTypedByHand holds that SET, INCRBY and DEL in redis-cli are recorded as events before the next decision.
func TestStockTypedByHand(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.typed("SET", "stock:shirt", 3)
	if available, err := s.Available(s.ctx, "shirt"); err == nil {
		if available != 3 {
			t.Errorf("available: got %d, want 3", available)
		}
	} else {
		t.Error(err)
	}
	s.hold("shirt", 1) // 3 recorded, 2 left
	s.typed("SET", "stock:shirt", 1)
	_, err := s.Reserve(s.ctx, s.request("shirt", 2)) // a refusal records as well
	wantRefusal(t, err, ErrSoldOut)
	s.typed("INCRBY", "stock:shirt", 4)
	s.hold("shirt", 5)
	s.typed("SET", "stock:shirt", 2)
	s.typed("DEL", "stock:shirt") // as good as 0
	_, err = s.Reserve(s.ctx, s.request("shirt", 1))
	wantRefusal(t, err, ErrSoldOut)

	var deltas []int64
	for _, e := range s.log() {
		if adjusted, ok := e.event.(*events.StockAdjusted); ok {
			if adjusted.Reason != events.ReasonExternal || adjusted.SKU != "shirt" {
				t.Errorf("event %d: got %+v, want the reason external", e.seq, adjusted)
			}
			deltas = append(deltas, adjusted.Delta)
		}
	}
	if len(deltas) != 3 || deltas[0] != 3 || deltas[1] != -1 || deltas[2] != 4 {
		t.Errorf("recorded: got %v, want [3 -1 4]", deltas)
	}
}

// TestMetadata holds that what a caller attaches travels with the event.
func TestMetadata(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 1)
	ctx := WithMetadata(s.ctx, map[string]string{"correlation_id": "req-1"})
	if _, err := s.Reserve(ctx, s.request("shirt", 1)); err != nil {
		t.Fatal(err)
	}
	entries, err := s.operator.XRevRangeN(s.ctx, s.pool.StreamKey(), "+", "-", 1).Result()
	if err != nil || len(entries) != 1 || entries[0].Values["metadata"] != `{"correlation_id":"req-1"}` {
		t.Errorf("got %v (%v), want the metadata", entries, err)
	}
}

// TestMemory holds how long Redis remembers: keys and ended holds for a while, live holds until they end.
func TestMemory(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 3)
	request := s.request("shirt", 1)
	r, err := s.Reserve(s.ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	ttl := func(key string) time.Duration { return s.operator.PTTL(s.ctx, key).Val() }
	if got := ttl(s.pool.HoldKey(r.HoldID)); got != -1 {
		t.Errorf("a live hold is forgotten after %s, want never: its units would be lost", got)
	}
	if got := ttl(s.pool.IdempotencyKey(request.IdempotencyKey)); got < 23*time.Hour || got > 24*time.Hour {
		t.Errorf("a key is forgotten after %s, want 24h", got)
	}
	if _, err := s.Cancel(s.ctx, Cancel{HoldID: r.HoldID}); err != nil {
		t.Fatal(err)
	}
	if got := ttl(s.pool.HoldKey(r.HoldID)); got < 23*time.Hour || got > 24*time.Hour {
		t.Errorf("an ended hold is forgotten after %s, want 24h", got)
	}
}
