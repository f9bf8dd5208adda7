package commands

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// TestValidation holds that a bad command names each of its faults, and never reaches Redis.
func TestValidation(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	before := f.Dump()
	long := func(n int) string { return strings.Repeat("x", n) }
	good := Reserve{SKU: "shirt", Qty: 1, UserID: "ann", IdempotencyKey: "k"}
	reserve := func(change func(*Reserve)) func() error {
		c := good
		change(&c)
		return func() error { return ignore(f.Reserve(f.Ctx, c)) }
	}
	adjust := func(c AdjustStock) func() error { return func() error { return ignore(f.AdjustStock(f.Ctx, c)) } }
	tests := []struct {
		name   string
		do     func() error
		fields string // that are at fault, in order
	}{
		{"all of it empty", func() error { return ignore(f.Reserve(f.Ctx, Reserve{})) }, "sku qty user_id idempotency_key"},
		{"qty 0", reserve(func(c *Reserve) { c.Qty = 0 }), "qty"},
		{"qty below 0", reserve(func(c *Reserve) { c.Qty = -1 }), "qty"},
		{"qty absurd", reserve(func(c *Reserve) { c.Qty = QtyMax + 1 }), "qty"},
		{"sku that URLs drop", reserve(func(c *Reserve) { c.SKU = ".." }), "sku"},
		{"sku with braces", reserve(func(c *Reserve) { c.SKU = "{a}" }), "sku"},
		{"sku with a slash", reserve(func(c *Reserve) { c.SKU = "a/b" }), "sku"},
		{"sku with a newline", reserve(func(c *Reserve) { c.SKU = "a\nb" }), "sku"},
		{"sku with NUL", reserve(func(c *Reserve) { c.SKU = "a\x00" }), "sku"},
		{"sku not ASCII", reserve(func(c *Reserve) { c.SKU = "Größe" }), "sku"},
		{"sku not UTF-8", reserve(func(c *Reserve) { c.SKU = "\xff" }), "sku"},
		{"sku too long", reserve(func(c *Reserve) { c.SKU = long(65) }), "sku"},
		{"user with a space", reserve(func(c *Reserve) { c.UserID = "a b" }), "user_id"},
		{"user too long", reserve(func(c *Reserve) { c.UserID = long(65) }), "user_id"},
		{"key too long", reserve(func(c *Reserve) { c.IdempotencyKey = long(129) }), "idempotency_key"},
		{"key with a quote", reserve(func(c *Reserve) { c.IdempotencyKey = `a"` }), "idempotency_key"},
		{"ttl too short", reserve(func(c *Reserve) { c.TTL = time.Millisecond }), "ttl_seconds"},
		{"ttl below 0", reserve(func(c *Reserve) { c.TTL = -time.Second }), "ttl_seconds"},
		{"ttl too long", reserve(func(c *Reserve) { c.TTL = time.Hour + time.Second }), "ttl_seconds"},
		{"delta 0", adjust(AdjustStock{SKU: "s", Reason: "r", IdempotencyKey: "k"}), "delta"},
		{"delta absurd", adjust(AdjustStock{SKU: "s", Delta: DeltaMax + 1, Reason: "r", IdempotencyKey: "k"}), "delta"},
		{"reason empty", adjust(AdjustStock{SKU: "s", Delta: 1, IdempotencyKey: "k"}), "reason"},
		{"reason of the system", adjust(AdjustStock{SKU: "s", Delta: 1, Reason: "external", IdempotencyKey: "k"}), "reason"},
		{"confirm without anything", func() error { return ignore(f.Confirm(f.Ctx, Confirm{})) }, "hold_id payment_ref"},
		{"payment too long", func() error { return ignore(f.Confirm(f.Ctx, Confirm{HoldID: "h", PaymentRef: long(129)})) }, "payment_ref"},
		{"cancel a hold with braces", func() error { return ignore(f.Cancel(f.Ctx, Cancel{HoldID: "{h}"})) }, "hold_id"},
		{"look at a sku with braces", func() error { return ignore(f.Available(f.Ctx, "{a}")) }, "sku"},
	}
	for _, test := range tests {
		var invalid *ValidationError
		if err := test.do(); !errors.As(err, &invalid) {
			t.Errorf("%s: got %v, want a ValidationError", test.name, err)
			continue
		}
		var fields []string
		for _, f := range invalid.Fields {
			fields = append(fields, f.Field)
			if f.Message == "" || !strings.Contains(invalid.Error(), f.Message) {
				t.Errorf("%s: %s says %q in %q", test.name, f.Field, f.Message, invalid)
			}
		}
		if got := strings.Join(fields, " "); got != test.fields {
			t.Errorf("%s: got faults in %q, want %q", test.name, got, test.fields)
		}
	}
	f.WantUnchanged(t, before)
}

// TestLimitsAreAllowed holds that what the messages promise is taken.
func TestLimitsAreAllowed(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	sku := "AZaz09._-:@+=" + strings.Repeat("x", 51)
	f.stock(sku, DeltaMax)
	r, err := f.Reserve(f.Ctx, Reserve{SKU: sku, Qty: QtyMax, UserID: strings.Repeat("/", 64), TTL: time.Hour, IdempotencyKey: strings.Repeat("k", 128)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Confirm(f.Ctx, Confirm{HoldID: r.HoldID, PaymentRef: strings.Repeat("p", 128)}); err != nil {
		t.Error(err)
	}
	f.WantStock(t, sku, DeltaMax-QtyMax)
	if log := f.Log(); len(log) != 3 {
		t.Errorf("the log has %d events, want 3", len(log))
	}
}

// TestConfig holds that a configuration is refused with all its faults.
func TestConfig(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	bad := Config{HoldTTL: time.Millisecond, HoldTTLMax: 0, KeepMemory: -1, Timeout: 0}
	err := bad.Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v, want four faults", err)
	}
	slow := DefaultConfig()
	if slow.Timeout = TimeoutMax + 1; slow.Validate() == nil {
		t.Error("a command may take longer than HTTP's answer")
	}
}

// TestUnboundedClient holds that a client which does not heed deadlines is refused.
func TestUnboundedClient(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	if _, err := NewService(events.MainPool, client, DefaultConfig()); err == nil || !strings.Contains(err.Error(), "ContextTimeoutEnabled") {
		t.Errorf("got %v, want it to name the option", err)
	}
}
