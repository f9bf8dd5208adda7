package commands

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands/commandstest"
	"github.com/stockstream/stockstream/events"
)

// TestHoldEndsAsOrderOrCancellation follows one hold to its order and another to its
// cancellation. It checks the answers, the stock, the due set and the events.
func TestHoldEndsAsOrderOrCancellation(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 3)

	first, err := f.Reserve(f.Ctx, Reserve{
		SKU:            "shirt",
		Qty:            2,
		UserID:         "ann",
		TTL:            90 * time.Second,
		IdempotencyKey: "k1",
	})
	if err != nil {
		t.Fatal(err)
	}
	wantReservation := Reservation{
		HoldID:    first.HoldID,
		SKU:       "shirt",
		Qty:       2,
		UserID:    "ann",
		Status:    events.StatusActive,
		ExpiresAt: first.ExpiresAt,
		ExpiresIn: 90 * time.Second,
		Position:  events.Position{Pool: "main", Seq: 2},
	}
	if first != wantReservation {
		t.Errorf("reserve: got %+v, want %+v", first, wantReservation)
	}
	if got := first.Position.String(); got != "main:2" {
		t.Errorf("reserve: got position %s, want main:2", got)
	}
	if left := time.Until(first.ExpiresAt); left > 91*time.Second {
		t.Errorf("reserve: got a deadline in %s, want 91s at most", left)
	}
	f.WantStock(t, "shirt", 1)

	order, err := f.Confirm(f.Ctx, Confirm{HoldID: first.HoldID, PaymentRef: "pay-1"})
	if err != nil {
		t.Fatal(err)
	}
	wantOrder := Confirmation{
		OrderID:    "ord_" + first.HoldID,
		HoldID:     first.HoldID,
		SKU:        "shirt",
		Qty:        2,
		UserID:     "ann",
		PaymentRef: "pay-1",
		Position:   events.Position{Pool: "main", Seq: 3},
	}
	if order != wantOrder {
		t.Errorf("confirm: got %+v, want %+v", order, wantOrder)
	}

	second := f.hold("shirt", 1)
	cancellation, err := f.Cancel(f.Ctx, Cancel{HoldID: second})
	if err != nil {
		t.Fatal(err)
	}
	wantCancellation := Cancellation{
		HoldID:   second,
		SKU:      "shirt",
		Qty:      1,
		UserID:   "ann",
		Status:   events.StatusCancelled,
		Position: events.Position{Pool: "main", Seq: 5},
	}
	if cancellation != wantCancellation {
		t.Errorf("cancel: got %+v, want %+v", cancellation, wantCancellation)
	}
	f.WantStock(t, "shirt", 1)

	if got := f.Operator.ZCard(f.Ctx, f.Pool.DueKey()).Val(); got != 0 {
		t.Errorf("holds:due has %d holds, want 0: both have ended", got)
	}
	log := f.Log()
	if len(log) != 5 {
		t.Fatalf("the log has %d events, want 5", len(log))
	}
	wantEvent(t, log[1], &events.HoldCreated{
		HoldID:         first.HoldID,
		SKU:            "shirt",
		Qty:            2,
		UserID:         "ann",
		TTLMs:          90_000,
		IdempotencyKey: "k1",
	})
	wantEvent(t, log[4], &events.HoldCancelled{
		HoldID: second,
		SKU:    "shirt",
		Qty:    1,
		UserID: "ann",
		Reason: "requested",
	})
}

func wantEvent(t *testing.T, got commandstest.Logged, want events.Event) {
	t.Helper()
	if !reflect.DeepEqual(got.Event, want) {
		t.Errorf("event %d: got %+v, want %+v", got.Seq, got.Event, want)
	}
}

// TestRepeatedReservationReturnsTheSameHold checks that a reservation that comes again is
// answered with the hold of the first, in the state it has by then, and changes nothing.
func TestRepeatedReservationReturnsTheSameHold(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 10)
	request := f.request("shirt", 2)
	first, err := f.Reserve(f.Ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	wantRepeatIn := func(status events.HoldStatus) {
		t.Helper()
		before := f.Dump()
		again, err := f.Reserve(f.Ctx, request)
		if err != nil {
			t.Fatalf("reserve again while %s: %v", status, err)
		}
		if again.HoldID != first.HoldID {
			t.Errorf("reserve again while %s: got hold %s, want %s", status, again.HoldID, first.HoldID)
		}
		if !again.Replayed {
			t.Errorf("reserve again while %s: got Replayed false, want true", status)
		}
		if again.Status != status {
			t.Errorf("reserve again: got status %s, want %s", again.Status, status)
		}
		if again.Position != first.Position {
			t.Errorf("reserve again while %s: got position %s, want %s",
				status, again.Position, first.Position)
		}
		if !again.ExpiresAt.Equal(first.ExpiresAt) {
			t.Errorf("reserve again while %s: got deadline %s, want %s",
				status, again.ExpiresAt, first.ExpiresAt)
		}
		f.WantUnchanged(t, before)
	}
	wantRepeatIn(events.StatusActive)
	if err := f.confirm(first.HoldID, "p"); err != nil {
		t.Fatal(err)
	}
	wantRepeatIn(events.StatusConfirmed)
}

// TestRepeatedConfirmationReturnsTheSameOrder checks that a confirmation that comes again
// is answered with the same order and changes nothing.
func TestRepeatedConfirmationReturnsTheSameOrder(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 10)
	confirm := Confirm{HoldID: f.hold("shirt", 2), PaymentRef: "p"}
	first, err := f.Confirm(f.Ctx, confirm)
	if err != nil {
		t.Fatal(err)
	}
	if first.Position.Seq != 3 {
		t.Errorf("confirm: got seq %d, want 3", first.Position.Seq)
	}
	before := f.Dump()
	again, err := f.Confirm(f.Ctx, confirm)
	if err != nil {
		t.Fatalf("confirm again: %v", err)
	}
	want := first
	want.Replayed = true
	if again != want {
		t.Errorf("confirm again: got %+v, want %+v", again, want)
	}
	f.WantUnchanged(t, before)
}

// TestRepeatedCancellationReturnsTheSameAnswer checks that a cancellation that comes
// again, at the shopper's request or because of the deadline, is answered as the first
// and changes nothing.
func TestRepeatedCancellationReturnsTheSameAnswer(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 10)
	cancelled := f.hold("shirt", 1)
	due := f.hold("shirt", 1)
	f.MakeDue(due)
	tests := []struct {
		command Cancel
		status  events.HoldStatus
		seq     int64
	}{
		{Cancel{HoldID: cancelled}, events.StatusCancelled, 4},
		{Cancel{HoldID: due, Expired: true}, events.StatusExpired, 5},
	}
	for _, test := range tests {
		want := Cancellation{
			HoldID:   test.command.HoldID,
			SKU:      "shirt",
			Qty:      1,
			UserID:   "ann",
			Status:   test.status,
			Position: events.Position{Pool: "main", Seq: test.seq},
		}
		first, err := f.Cancel(f.Ctx, test.command)
		if err != nil {
			t.Fatalf("end as %s: %v", test.status, err)
		}
		if first != want {
			t.Errorf("end as %s: got %+v, want %+v", test.status, first, want)
		}
		before := f.Dump()
		again, err := f.Cancel(f.Ctx, test.command)
		if err != nil {
			t.Fatalf("end as %s again: %v", test.status, err)
		}
		want.Replayed = true
		if again != want {
			t.Errorf("end as %s again: got %+v, want %+v", test.status, again, want)
		}
		f.WantUnchanged(t, before)
	}
	f.WantStock(t, "shirt", 10)
}

// TestRepeatedAdjustmentReturnsTheSameStock checks that an adjustment that comes again is
// answered as the first and changes nothing.
func TestRepeatedAdjustmentReturnsTheSameStock(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 8)
	adjustment := f.adjustment("shirt", 5)
	want := Adjustment{
		SKU:       "shirt",
		Available: 13,
		Position:  events.Position{Pool: "main", Seq: 2},
	}
	first, err := f.AdjustStock(f.Ctx, adjustment)
	if err != nil {
		t.Fatal(err)
	}
	if first != want {
		t.Errorf("adjust: got %+v, want %+v", first, want)
	}
	before := f.Dump()
	again, err := f.AdjustStock(f.Ctx, adjustment)
	if err != nil {
		t.Fatalf("adjust again: %v", err)
	}
	want.Replayed = true
	if again != want {
		t.Errorf("adjust again: got %+v, want %+v", again, want)
	}
	f.WantUnchanged(t, before)
	f.WantStock(t, "shirt", 13)
}

// TestStockChangedByHandIsRecordedBeforeTheNextDecision checks that SET, INCRBY and DEL
// of a stock counter in redis-cli are recorded as STOCK_ADJUSTED events with the reason
// "external", by decisions and by refusals.
func TestStockChangedByHandIsRecordedBeforeTheNextDecision(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.RedisCommand("SET", "stock:shirt", 3)
	available, err := f.Available(f.Ctx, "shirt")
	if err != nil {
		t.Error(err)
	}
	if available != 3 {
		t.Errorf("available: got %d, want 3", available)
	}
	f.hold("shirt", 1) // records 3, leaves 2
	f.RedisCommand("SET", "stock:shirt", 1)
	_, err = f.Reserve(f.Ctx, f.request("shirt", 2)) // is refused, and records -1
	wantRefusal(t, err, ErrSoldOut)
	f.RedisCommand("INCRBY", "stock:shirt", 4)
	f.hold("shirt", 5) // records 4, leaves 0
	f.RedisCommand("SET", "stock:shirt", 2)
	f.RedisCommand("DEL", "stock:shirt") // counts as 0, so there is no change to record
	_, err = f.Reserve(f.Ctx, f.request("shirt", 1))
	wantRefusal(t, err, ErrSoldOut)

	var deltas []int64
	for _, logged := range f.Log() {
		adjusted, isAdjusted := logged.Event.(*events.StockAdjusted)
		if !isAdjusted {
			continue
		}
		if adjusted.Reason != events.ReasonExternal {
			t.Errorf("event %d: got reason %s, want %s", logged.Seq, adjusted.Reason, events.ReasonExternal)
		}
		if adjusted.SKU != "shirt" {
			t.Errorf("event %d: got SKU %s, want shirt", logged.Seq, adjusted.SKU)
		}
		deltas = append(deltas, adjusted.Delta)
	}
	if want := []int64{3, -1, 4}; !slices.Equal(deltas, want) {
		t.Errorf("recorded changes: got %v, want %v", deltas, want)
	}
}

// TestMetadataOfACommandIsAttachedToItsEvent checks that every command's Metadata is in
// its stream entry.
func TestMetadataOfACommandIsAttachedToItsEvent(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 2)
	metadata := map[string]string{"correlation_id": "req-1"}
	wantMetadata := func(command string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		entries, err := f.Operator.XRevRangeN(f.Ctx, f.Pool.StreamKey(), "+", "-", 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 {
			t.Fatalf("%s: got %d entries, want 1", command, len(entries))
		}
		const want = `{"correlation_id":"req-1"}`
		if got := entries[0].Values["metadata"]; got != want {
			t.Errorf("%s: got metadata %v, want %s", command, got, want)
		}
	}
	request := f.request("shirt", 1)
	request.Metadata = metadata
	reservation, err := f.Reserve(f.Ctx, request)
	wantMetadata("reserve", err)
	_, err = f.Confirm(f.Ctx, Confirm{
		HoldID:     reservation.HoldID,
		PaymentRef: "p",
		Metadata:   metadata,
	})
	wantMetadata("confirm", err)
	_, err = f.Cancel(f.Ctx, Cancel{HoldID: f.hold("shirt", 1), Metadata: metadata})
	wantMetadata("cancel", err)
	adjustment := f.adjustment("shirt", 1)
	adjustment.Metadata = metadata
	_, err = f.AdjustStock(f.Ctx, adjustment)
	wantMetadata("adjust", err)
}

// TestRedisKeepsLiveHoldsForeverAndEndedOnesForADay checks when Redis drops a hold and an
// idempotency key.
func TestRedisKeepsLiveHoldsForeverAndEndedOnesForADay(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 3)
	request := f.request("shirt", 1)
	reservation, err := f.Reserve(f.Ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	holdKey := f.Pool.HoldKey(reservation.HoldID)
	if got := f.Operator.PTTL(f.Ctx, holdKey).Val(); got != -1 {
		t.Errorf("a live hold: got dropped after %s, want never: its units would be lost", got)
	}
	wantKeptForADay(t, f, f.Pool.IdempotencyKey(request.IdempotencyKey))
	if err := f.cancel(reservation.HoldID); err != nil {
		t.Fatal(err)
	}
	wantKeptForADay(t, f, holdKey)
}

func wantKeptForADay(t *testing.T, f *fixture, key string) {
	t.Helper()
	got := f.Operator.PTTL(f.Ctx, key).Val()
	if got < 23*time.Hour || got > 24*time.Hour {
		t.Errorf("%s: got dropped after %s, want 24h", key, got)
	}
}

// TestHoldOfAnOlderBuildStillEnds checks that a hold whose id is a UUID without the
// prefix, as older builds made them, can be confirmed and cancelled, and that new holds
// have the prefix.
func TestHoldOfAnOlderBuildStillEnds(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 2)
	olderHold := func() string {
		id := f.hold("shirt", 1)
		old, found := strings.CutPrefix(id, "H-")
		if !found {
			t.Errorf("new hold: got the id %s, want it to begin with H-", id)
		}
		f.RedisCommand("RENAME", f.Pool.HoldKey(id), f.Pool.HoldKey(old))
		f.RedisCommand("ZADD", f.Pool.DueKey(), f.Operator.ZScore(f.Ctx, f.Pool.DueKey(), id).Val(), old)
		f.RedisCommand("ZREM", f.Pool.DueKey(), id)
		return old
	}
	confirmed := olderHold()
	order, err := f.Confirm(f.Ctx, Confirm{HoldID: confirmed, PaymentRef: "p"})
	if err != nil {
		t.Errorf("confirm: %v", err)
	}
	if order.OrderID != "ord_"+confirmed {
		t.Errorf("confirm: got order %s, want ord_%s", order.OrderID, confirmed)
	}
	if err := f.cancel(olderHold()); err != nil {
		t.Errorf("cancel: %v", err)
	}
	f.WantStock(t, "shirt", 1)
	if got := f.Operator.ZCard(f.Ctx, f.Pool.DueKey()).Val(); got != 0 {
		t.Errorf("holds:due has %d holds, want 0: both have ended", got)
	}
}
