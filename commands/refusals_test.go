package commands

import (
	"errors"
	"maps"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// refusalCases has every way in which a script says no. Each runs in a shop that has 3 units of "shirt", of which hold
// h1 holds one.
var refusalCases = []struct {
	name    string
	want    *Error
	arrange func(s *shop, h1 string)
	act     func(s *shop, h1 string) error
	// available is what the refusal says there is; -1 where it says nothing.
	available int64
}{
	{"reserve more than there is", ErrSoldOut, nil, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 3)))
	}, 2},
	{"reserve an unknown SKU", ErrUnknownSKU, nil, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("nobody-stocked-it", 1)))
	}, -1},
	{"reserve with the key of another request", ErrIdempotencyMismatch, nil, func(s *shop, _ string) error {
		request := s.request("shirt", 2)
		request.IdempotencyKey = "first"
		return ignore(s.Reserve(s.ctx, request))
	}, -1},
	{"reserve with the key of an adjustment", ErrIdempotencyMismatch, func(s *shop, _ string) {
		_, err := s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: 1, Reason: "found", IdempotencyKey: "adjusted"})
		if err != nil {
			s.t.Fatal(err)
		}
	}, func(s *shop, _ string) error {
		request := s.request("shirt", 1)
		request.IdempotencyKey = "adjusted"
		return ignore(s.Reserve(s.ctx, request))
	}, -1},
	{"reserve with a key that was overwritten by hand", ErrIdempotencyMismatch, func(s *shop, _ string) { s.typed("SET", s.pool.IdempotencyKey("first"), "mine") }, func(s *shop, _ string) error {
		request := s.request("shirt", 1)
		request.IdempotencyKey = "first"
		return ignore(s.Reserve(s.ctx, request))
	}, -1},
	{"take away more than there is", ErrInsufficientStock, nil, func(s *shop, _ string) error {
		return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: -3, Reason: "broken", IdempotencyKey: s.key()}))
	}, 2},
	{"take away from an unknown SKU", ErrUnknownSKU, nil, func(s *shop, _ string) error {
		return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "sock", Delta: -1, Reason: "broken", IdempotencyKey: s.key()}))
	}, -1},
	{"add beyond the limit", ErrStockLimit, nil, func(s *shop, _ string) error {
		return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: DeltaMax, Reason: "dream", IdempotencyKey: s.key()}))
	}, 2},
	{"confirm an unknown hold", ErrUnknownHold, nil, func(s *shop, _ string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: "none", PaymentRef: "p1"}))
	}, -1},
	{"confirm again with another payment", ErrHoldConfirmed, confirmed, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p2"}))
	}, -1},
	{"confirm what was cancelled", ErrHoldCancelled, cancelled, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"confirm after the deadline, before the saga", ErrHoldExpired, due, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"confirm after the saga", ErrHoldExpired, expired, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"cancel an unknown hold", ErrUnknownHold, nil, func(s *shop, _ string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: "none"}))
	}, -1},
	{"cancel what is an order", ErrHoldConfirmed, confirmed, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"cancel after the deadline, before the saga", ErrHoldExpired, due, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"expire what is an order", ErrHoldConfirmed, confirmed, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1, Expired: true}))
	}, -1},
	{"expire what was cancelled", ErrHoldCancelled, cancelled, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1, Expired: true}))
	}, -1},
	{"expire too early", ErrNotDue, nil, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1, Expired: true}))
	}, -1},
	{"cancel with an event for another SKU", errHoldChanged, nil, func(s *shop, h1 string) error {
		return s.decide(s.ctx, events.NewID(), &events.HoldCancelled{HoldID: h1, SKU: "coat", Qty: 1}, &decision{
			rule: ruleCancel, args: []string{"coat", h1, "CANCELLED", "1000"}, keys: []string{s.pool.StockKey("coat"), s.pool.HoldKey(h1)},
		})
	}, -1},
	{"a counter that is no number", ErrStateInvalid, func(s *shop, _ string) { s.typed("SET", "stock:shirt", "three") }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"a counter below zero", ErrStateInvalid, func(s *shop, _ string) { s.typed("SET", "stock:shirt", "-1") }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"a counter that is a list", ErrStateInvalid, func(s *shop, _ string) { s.typed("DEL", "stock:shirt"); s.typed("RPUSH", "stock:shirt", 3) }, func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"adjust a counter that is no number", ErrStateInvalid, func(s *shop, _ string) { s.typed("SET", "stock:shirt", "1.5") }, func(s *shop, _ string) error {
		return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: 1, Reason: "found", IdempotencyKey: s.key()}))
	}, -1},
	{"a hold that is a string", ErrStateInvalid, func(s *shop, h1 string) { s.typed("SET", s.pool.HoldKey(h1), "mine") }, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"a hold without a deadline", ErrStateInvalid, func(s *shop, h1 string) { s.typed("HDEL", s.pool.HoldKey(h1), "expires_at") }, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"a hold of no state that there is", ErrStateInvalid, inHold("state", "PAID"), func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"cancel a hold of no state that there is", ErrStateInvalid, inHold("state", "active"), func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"a hold of half a unit", ErrStateInvalid, inHold("qty", "1.5"), func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"a hold of units and a space", ErrStateInvalid, inHold("qty", "1 "), func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
	{"a hold whose deadline has a space", ErrStateInvalid, inHold("expires_at", "99999999999999 "), func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1, Expired: true}))
	}, -1},
	{"a hold that ended nowhere", ErrStateInvalid, inHold("state", "CANCELLED"), func(s *shop, h1 string) error {
		return ignore(s.Cancel(s.ctx, Cancel{HoldID: h1}))
	}, -1},
	{"a due set that is none", ErrUnavailable, func(s *shop, _ string) { s.typed("SET", "holds:due", "x") }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"a stream that is none", ErrUnavailable, func(s *shop, _ string) { s.typed("SET", "inventory.events", "x") }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"an emptied Redis", ErrNotReady, func(s *shop, _ string) { s.typed("FLUSHALL"); s.typed("SET", "stock:shirt", 3) }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"a Redis that fell behind", ErrStale, func(s *shop, _ string) { s.typed("HINCRBY", "inventory.meta", "seq", -1) }, func(s *shop, _ string) error {
		return ignore(s.Reserve(s.ctx, s.request("shirt", 1)))
	}, -1},
	{"a Redis of an older epoch", ErrStale, func(s *shop, _ string) { s.fence.saw(2, 1) }, func(s *shop, h1 string) error {
		return ignore(s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}))
	}, -1},
}

// inHold types a value into a field of the hold.
func inHold(field, value string) func(s *shop, h1 string) {
	return func(s *shop, h1 string) { s.typed("HSET", s.pool.HoldKey(h1), field, value) }
}

func confirmed(s *shop, h1 string) {
	if _, err := s.Confirm(s.ctx, Confirm{HoldID: h1, PaymentRef: "p1"}); err != nil {
		s.t.Fatal(err)
	}
}

func cancelled(s *shop, h1 string) {
	if _, err := s.Cancel(s.ctx, Cancel{HoldID: h1}); err != nil {
		s.t.Fatal(err)
	}
}

func due(s *shop, h1 string) { s.makeDue(h1) }

func expired(s *shop, h1 string) {
	s.makeDue(h1)
	if _, err := s.Cancel(s.ctx, Cancel{HoldID: h1, Expired: true}); err != nil {
		s.t.Fatal(err)
	}
}

// TestRefusals holds that every refusal is its own typed error, and leaves every key of Redis as it was.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range refusalCases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			s.stock("shirt", 3)
			r, err := s.Reserve(s.ctx, Reserve{SKU: "shirt", Qty: 1, UserID: "ann", IdempotencyKey: "first"})
			if err != nil {
				t.Fatal(err)
			}
			if test.arrange != nil {
				test.arrange(s, r.HoldID)
			}
			before := s.dump()
			available := wantRefusal(t, test.act(s, r.HoldID), test.want)
			s.wantUnchanged(t, before)
			if test.available >= 0 && available != test.available {
				t.Errorf("available: got %d, want %d", available, test.available)
			}
		})
	}
}

// TestEveryRefusalIsTested holds that a new status word comes with a case.
func TestEveryRefusalIsTested(t *testing.T) {
	t.Parallel()
	untested := maps.Clone(refusals)
	for _, test := range refusalCases {
		delete(untested, test.want.Code)
	}
	for status := range untested {
		t.Errorf("status %s: no case refuses with it", status)
	}
	for status, refusal := range refusals {
		if refusal.Code != status || refusal.Detail == "" {
			t.Errorf("status %s: maps to the code %q with the detail %q", status, refusal.Code, refusal.Detail)
		}
		if !errors.Is(refusal, &Error{Code: status}) {
			t.Errorf("status %s: errors.Is does not know it by its code", status)
		}
	}
}

// TestUnknownStatus holds that a word which this build does not know is never taken for a success.
func TestUnknownStatus(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"HOLD_PAID", "", "OK", statusDecided, statusFailed} {
		if err := refusal(events.MainPool, answer{status: status, seq: 1}); err == nil {
			t.Errorf("%q was taken for a success", status)
		}
	}
}

// TestDueSetIsPutRight holds that asking for an expiry puts the due set right, whoever has touched it: a hold that is not
// due stands there by its deadline, and one that ended does not stand there.
func TestDueSetIsPutRight(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		arrange func(s *shop, h1 string)
		stands  bool
	}{
		"not due":   {func(*shop, string) {}, true},
		"confirmed": {confirmed, false},
		"cancelled": {cancelled, false},
		"expired":   {expired, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			s.stock("shirt", 3)
			r, err := s.Reserve(s.ctx, s.request("shirt", 1))
			if err != nil {
				t.Fatal(err)
			}
			deadline := s.operator.ZScore(s.ctx, s.pool.DueKey(), r.HoldID).Val()
			test.arrange(s, r.HoldID)
			s.typed("ZADD", s.pool.DueKey(), 0, r.HoldID)
			_ = ignore(s.Cancel(s.ctx, Cancel{HoldID: r.HoldID, Expired: true})) // whatever it answers
			score, err := s.operator.ZScore(s.ctx, s.pool.DueKey(), r.HoldID).Result()
			if stands := err == nil; stands != test.stands || stands && score != deadline {
				t.Errorf("it stands in the due set: %t, at %.0f; want %t, at %.0f", stands, score, test.stands, deadline)
			}
		})
	}
}

// TestStockBeyondTheLimit holds that units which come back from holds may bring a stock above what an adjustment may, and
// that it goes on selling there.
func TestStockBeyondTheLimit(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("grain", DeltaMax)
	r, err := s.Reserve(s.ctx, s.request("grain", QtyMax))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error {
			return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "grain", Delta: QtyMax, Reason: "found", IdempotencyKey: s.key()}))
		},
		func() error { return ignore(s.Cancel(s.ctx, Cancel{HoldID: r.HoldID})) },
		func() error { return ignore(s.Reserve(s.ctx, s.request("grain", 1))) },
		func() error { return ignore(s.Available(s.ctx, "grain")) },
	} {
		if err := step(); err != nil {
			t.Error(err)
		}
	}
	s.wantStock(t, "grain", DeltaMax+QtyMax-1)
}

// TestFenceNeverFalls holds that the fence keeps the highest place, whatever order answers come in.
func TestFenceNeverFalls(t *testing.T) {
	t.Parallel()
	var f fence
	for _, place := range [][2]int64{{1, 5}, {1, 4}, {2, 1}, {1, 9}} {
		f.saw(place[0], place[1])
	}
	if epoch, seq := f.known(); epoch != 2 || seq != 1 {
		t.Errorf("got epoch %d and seq %d, want 2 and 1", epoch, seq)
	}
}
