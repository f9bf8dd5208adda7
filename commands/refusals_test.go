package commands

import (
	"errors"
	"maps"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// refusalCase is one way in which a command is refused. It runs on a fixture with 3
// shirts, one of which the hold with the id h1 has. That hold was made with the
// idempotency key "first".
type refusalCase struct {
	name    string
	arrange func(f *fixture, h1 string) // may be nil
	command func(f *fixture, h1 string) error
	want    *Error
	// wantAvailable is the number of available units that the refusal must report. It is
	// not checked if 0.
	wantAvailable int64
}

// reserveShirts returns a command that reserves shirts with a new idempotency key.
func reserveShirts(qty int64) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		return ignore(f.Reserve(f.Ctx, f.request("shirt", qty)))
	}
}

// reserveWithKey returns a command that reserves shirts with the idempotency key given.
func reserveWithKey(key string, qty int64) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		request := f.request("shirt", qty)
		request.IdempotencyKey = key
		return ignore(f.Reserve(f.Ctx, request))
	}
}

// adjust returns a command that adjusts a SKU's stock.
func adjust(sku string, delta int64) func(*fixture, string) error {
	return func(f *fixture, _ string) error {
		return ignore(f.AdjustStock(f.Ctx, f.adjustment(sku, delta)))
	}
}

// confirm confirms the hold.
func confirm(f *fixture, h1 string) error { return f.confirm(h1, "p1") }

// cancel cancels the hold at the shopper's request.
func cancel(f *fixture, h1 string) error { return f.cancel(h1) }

// expire cancels the hold because of its deadline.
func expire(f *fixture, h1 string) error { return f.expire(h1) }

// makeConfirmed confirms the hold.
func makeConfirmed(f *fixture, h1 string) {
	if err := f.confirm(h1, "p1"); err != nil {
		f.T.Fatal(err)
	}
}

// makeCancelled cancels the hold at the shopper's request.
func makeCancelled(f *fixture, h1 string) {
	if err := f.cancel(h1); err != nil {
		f.T.Fatal(err)
	}
}

// makeDue moves the hold's deadline into the past.
func makeDue(f *fixture, h1 string) { f.MakeDue(h1) }

// makeExpired moves the hold's deadline into the past and cancels the hold because of it.
func makeExpired(f *fixture, h1 string) {
	f.MakeDue(h1)
	if err := f.expire(h1); err != nil {
		f.T.Fatal(err)
	}
}

// redisCommand sends a command as an operator would in redis-cli.
func redisCommand(args ...any) func(*fixture, string) {
	return func(f *fixture, _ string) { f.RedisCommand(args...) }
}

// setHoldField sets a field of the hold by hand.
func setHoldField(field, value string) func(*fixture, string) {
	return func(f *fixture, h1 string) { f.RedisCommand("HSET", f.Pool.HoldKey(h1), field, value) }
}

// refusalCases has every way in which the script refuses a command.
var refusalCases = []refusalCase{
	{
		name:          "reserve more than is available",
		command:       reserveShirts(3),
		want:          ErrSoldOut,
		wantAvailable: 2,
	},
	{
		name: "reserve an unknown SKU",
		command: func(f *fixture, _ string) error {
			return ignore(f.Reserve(f.Ctx, f.request("never-stocked", 1)))
		},
		want: ErrUnknownSKU,
	},
	{
		name:    "reserve with the key of another reservation",
		command: reserveWithKey("first", 2),
		want:    ErrIdempotencyMismatch,
	},
	{
		name: "reserve with the key of an adjustment",
		arrange: func(f *fixture, _ string) {
			adjustment := f.adjustment("shirt", 1)
			adjustment.IdempotencyKey = "adjusted"
			if _, err := f.AdjustStock(f.Ctx, adjustment); err != nil {
				f.T.Fatal(err)
			}
		},
		command: reserveWithKey("adjusted", 1),
		want:    ErrIdempotencyMismatch,
	},
	{
		name: "reserve with a key that was overwritten by hand",
		arrange: func(f *fixture, _ string) {
			f.RedisCommand("SET", f.Pool.IdempotencyKey("first"), "a text")
		},
		command: reserveWithKey("first", 1),
		want:    ErrIdempotencyMismatch,
	},
	{
		name:          "take away more than is available",
		command:       adjust("shirt", -3),
		want:          ErrInsufficientStock,
		wantAvailable: 2,
	},
	{
		name:    "take away from an unknown SKU",
		command: adjust("sock", -1),
		want:    ErrUnknownSKU,
	},
	{
		name:          "add beyond the limit",
		command:       adjust("shirt", DeltaMax),
		want:          ErrStockLimit,
		wantAvailable: 2,
	},
	{
		name:    "confirm an unknown hold",
		command: func(f *fixture, _ string) error { return f.confirm("none", "p1") },
		want:    ErrUnknownHold,
	},
	{
		name:    "confirm again with another payment",
		arrange: makeConfirmed,
		command: func(f *fixture, h1 string) error { return f.confirm(h1, "p2") },
		want:    ErrHoldConfirmed,
	},
	{
		name:    "confirm a cancelled hold",
		arrange: makeCancelled,
		command: confirm,
		want:    ErrHoldCancelled,
	},
	{
		name:    "confirm after the deadline, before the saga",
		arrange: makeDue,
		command: confirm,
		want:    ErrHoldExpired,
	},
	{
		name:    "confirm after the saga",
		arrange: makeExpired,
		command: confirm,
		want:    ErrHoldExpired,
	},
	{
		name:    "cancel an unknown hold",
		command: func(f *fixture, _ string) error { return f.cancel("none") },
		want:    ErrUnknownHold,
	},
	{
		name:    "cancel an order",
		arrange: makeConfirmed,
		command: cancel,
		want:    ErrHoldConfirmed,
	},
	{
		name:    "cancel after the deadline, before the saga",
		arrange: makeDue,
		command: cancel,
		want:    ErrHoldExpired,
	},
	{
		name:    "expire an order",
		arrange: makeConfirmed,
		command: expire,
		want:    ErrHoldConfirmed,
	},
	{
		name:    "expire a cancelled hold",
		arrange: makeCancelled,
		command: expire,
		want:    ErrHoldCancelled,
	},
	{
		name:    "expire before the deadline",
		command: expire,
		want:    ErrNotDue,
	},
	{
		name: "cancel with an event for another SKU",
		command: func(f *fixture, h1 string) error {
			event := &events.HoldCancelled{HoldID: h1, SKU: "coat", Qty: 1}
			return f.decide(f.Ctx, events.NewID(), event, &decision{
				rule: ruleCancel,
				keys: []string{f.Pool.StockKey("coat"), f.Pool.HoldKey(h1)},
				args: []string{"coat", h1, "CANCELLED", "1000"},
			})
		},
		want: errHoldChanged,
	},
	{
		name:    "reserve from a counter that is not a number",
		arrange: redisCommand("SET", "stock:shirt", "three"),
		command: reserveShirts(1),
		want:    ErrStateInvalid,
	},
	{
		name:    "reserve from a counter below zero",
		arrange: redisCommand("SET", "stock:shirt", "-1"),
		command: reserveShirts(1),
		want:    ErrStateInvalid,
	},
	{
		name: "cancel with a counter that is a list",
		arrange: func(f *fixture, _ string) {
			f.RedisCommand("DEL", "stock:shirt")
			f.RedisCommand("RPUSH", "stock:shirt", 3)
		},
		command: cancel,
		want:    ErrStateInvalid,
	},
	{
		name:    "adjust a counter that is not a whole number",
		arrange: redisCommand("SET", "stock:shirt", "1.5"),
		command: adjust("shirt", 1),
		want:    ErrStateInvalid,
	},
	{
		name: "confirm a hold that is a string",
		arrange: func(f *fixture, h1 string) {
			f.RedisCommand("SET", f.Pool.HoldKey(h1), "a text")
		},
		command: confirm,
		want:    ErrStateInvalid,
	},
	{
		name: "confirm a hold without a deadline",
		arrange: func(f *fixture, h1 string) {
			f.RedisCommand("HDEL", f.Pool.HoldKey(h1), "expires_at")
		},
		command: confirm,
		want:    ErrStateInvalid,
	},
	{
		name:    "confirm a hold with an unknown state",
		arrange: setHoldField("state", "PAID"),
		command: confirm,
		want:    ErrStateInvalid,
	},
	{
		name:    "cancel a hold with a state in lower case",
		arrange: setHoldField("state", "active"),
		command: cancel,
		want:    ErrStateInvalid,
	},
	{
		name:    "cancel a hold of half a unit",
		arrange: setHoldField("qty", "1.5"),
		command: cancel,
		want:    ErrStateInvalid,
	},
	{
		name:    "confirm a hold whose qty has a space",
		arrange: setHoldField("qty", "1 "),
		command: confirm,
		want:    ErrStateInvalid,
	},
	{
		name:    "expire a hold whose deadline has a space",
		arrange: setHoldField("expires_at", "99999999999999 "),
		command: expire,
		want:    ErrStateInvalid,
	},
	{
		name:    "cancel an ended hold without the seq of its end",
		arrange: setHoldField("state", "CANCELLED"),
		command: cancel,
		want:    ErrStateInvalid,
	},
	{
		name:    "reserve with a due set that is a string",
		arrange: redisCommand("SET", "holds:due", "x"),
		command: reserveShirts(1),
		want:    ErrUnavailable,
	},
	{
		name:    "reserve with a stream that is a string",
		arrange: redisCommand("SET", "inventory.events", "x"),
		command: reserveShirts(1),
		want:    ErrUnavailable,
	},
	{
		name: "reserve on an emptied Redis",
		arrange: func(f *fixture, _ string) {
			f.RedisCommand("FLUSHALL")
			f.RedisCommand("SET", "stock:shirt", 3)
		},
		command: reserveShirts(1),
		want:    ErrNotReady,
	},
	{
		name: "reserve on a Redis that was a replica for a moment",
		arrange: func(f *fixture, _ string) {
			f.RedisCommand("REPLICAOF", "127.0.0.1", "1")
			f.RedisCommand("REPLICAOF", "NO", "ONE")
		},
		command: reserveShirts(1),
		want:    ErrOtherServer,
	},
	{
		name:    "reserve on a log that another build set up",
		arrange: redisCommand("HDEL", "inventory.meta", "server"),
		command: reserveShirts(1),
		want:    ErrOtherServer,
	},
	{
		name:    "reserve on a Redis that fell behind",
		arrange: redisCommand("HINCRBY", "inventory.meta", "seq", -1),
		command: reserveShirts(1),
		want:    ErrStale,
	},
	{
		name:    "confirm on a Redis of an earlier epoch",
		arrange: func(f *fixture, _ string) { f.Gate().Acknowledge(2, 1) },
		command: confirm,
		want:    ErrStale,
	},
}

// TestRefusedCommandChangesNothing checks that every refusal is a typed error of its own,
// and that it leaves every key in Redis unchanged.
func TestRefusedCommandChangesNothing(t *testing.T) {
	t.Parallel()
	for _, test := range refusalCases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 3)
			request := f.request("shirt", 1)
			request.IdempotencyKey = "first"
			reservation, err := f.Reserve(f.Ctx, request)
			if err != nil {
				t.Fatal(err)
			}
			if test.arrange != nil {
				test.arrange(f, reservation.HoldID)
			}
			before := f.Dump()
			available := wantRefusal(t, test.command(f, reservation.HoldID), test.want)
			f.WantUnchanged(t, before)
			if test.wantAvailable != 0 && available != test.wantAvailable {
				t.Errorf("available: got %d, want %d", available, test.wantAvailable)
			}
		})
	}
}

// TestEveryRefusalHasACase checks that every status word of a refusal has a case in
// refusalCases.
func TestEveryRefusalHasACase(t *testing.T) {
	t.Parallel()
	untested := maps.Clone(refusals)
	for _, test := range refusalCases {
		delete(untested, test.want.Code)
	}
	for status := range untested {
		t.Errorf("status %s: got no case that is refused with it, want one", status)
	}
}

// TestEveryRefusalIsItsOwnTypedError checks that each status word of a refusal maps to an
// error with the same code, a detail, and an identity by its code.
func TestEveryRefusalIsItsOwnTypedError(t *testing.T) {
	t.Parallel()
	for status, refusal := range refusals {
		if refusal.Code != status {
			t.Errorf("status %s: got the code %q, want the status", status, refusal.Code)
		}
		if refusal.Detail == "" {
			t.Errorf("status %s: got no detail, want one", status)
		}
		if !errors.Is(refusal, &Error{Code: status}) {
			t.Errorf("status %s: errors.Is got false for an error with the same code, want true", status)
		}
	}
}

// TestUnknownStatusIsAnError checks that an answer with a status word that this build
// does not know, or that belongs to a whole batch, is never a success.
func TestUnknownStatusIsAnError(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"HOLD_PAID", "", "OK", statusDecided, statusFailed} {
		if err := refusal(events.MainPool, answer{status: status, seq: 1}); err == nil {
			t.Errorf("status %q: got success, want an error", status)
		}
	}
}

// TestExpireCorrectsTheDueSet checks that an attempt to expire a hold corrects its entry
// in the due set: a hold that is not due gets its deadline back, and a hold that has
// ended is removed.
func TestExpireCorrectsTheDueSet(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		arrange func(f *fixture, h1 string)
		inSet   bool
	}{
		"not due":   {func(*fixture, string) {}, true},
		"confirmed": {makeConfirmed, false},
		"cancelled": {makeCancelled, false},
		"expired":   {makeExpired, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 3)
			holdID := f.hold("shirt", 1)
			deadline := f.Operator.ZScore(f.Ctx, f.Pool.DueKey(), holdID).Val()
			test.arrange(f, holdID)
			f.RedisCommand("ZADD", f.Pool.DueKey(), 0, holdID)
			_ = f.expire(holdID) // its answer is checked elsewhere
			score, err := f.Operator.ZScore(f.Ctx, f.Pool.DueKey(), holdID).Result()
			inSet := err == nil
			if inSet != test.inSet {
				t.Errorf("in the due set: got %t (%v), want %t", inSet, err, test.inSet)
			}
			if inSet && test.inSet && score != deadline {
				t.Errorf("deadline in the due set: got %.0f, want %.0f", score, deadline)
			}
		})
	}
}

// TestStockAboveTheLimitStaysSellable checks that units that return from a hold may raise
// a stock above the limit for adjustments, and that the SKU can still be read and
// reserved then.
func TestStockAboveTheLimitStaysSellable(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("grain", DeltaMax)
	holdID := f.hold("grain", QtyMax)
	f.stock("grain", QtyMax)
	if err := f.cancel(holdID); err != nil {
		t.Errorf("cancel above the limit: %v", err)
	}
	if _, err := f.Reserve(f.Ctx, f.request("grain", 1)); err != nil {
		t.Errorf("reserve above the limit: %v", err)
	}
	if _, err := f.Available(f.Ctx, "grain"); err != nil {
		t.Errorf("read the stock above the limit: %v", err)
	}
	f.WantStock(t, "grain", DeltaMax+QtyMax-1)
}
