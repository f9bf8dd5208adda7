package commands

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// invalidCommand is a command that validation rejects.
type invalidCommand struct {
	name   string
	run    func() error
	fields string // that have a fault, in order
}

// TestInvalidCommandNamesEveryFaultAndSparesRedis checks that each invalid command is
// rejected with a ValidationError that names every field with a fault, and that none of
// them changes Redis.
func TestInvalidCommandNamesEveryFaultAndSparesRedis(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	before := f.Dump()
	var tests []invalidCommand
	tests = append(tests, invalidReservations(f)...)
	tests = append(tests, invalidAdjustments(f)...)
	tests = append(tests, invalidHoldCommands(f)...)
	for _, test := range tests {
		var invalid *ValidationError
		if err := test.run(); !errors.As(err, &invalid) {
			t.Errorf("%s: got %v, want a ValidationError", test.name, err)
			continue
		}
		var fields []string
		for _, fault := range invalid.Fields {
			fields = append(fields, fault.Field)
			if fault.Message == "" {
				t.Errorf("%s: got no message for %s, want one", test.name, fault.Field)
			}
			if !strings.Contains(invalid.Error(), fault.Message) {
				t.Errorf("%s: got error %q, want it to contain %q", test.name, invalid, fault.Message)
			}
		}
		if got := strings.Join(fields, " "); got != test.fields {
			t.Errorf("%s: got faults in %q, want %q", test.name, got, test.fields)
		}
	}
	f.WantUnchanged(t, before)
}

func invalidReservations(f *fixture) []invalidCommand {
	reserve := func(change func(*Reserve)) func() error {
		command := f.request("shirt", 1)
		change(&command)
		return func() error { return ignore(f.Reserve(f.Ctx, command)) }
	}
	long := func(length int) string { return strings.Repeat("x", length) }
	return []invalidCommand{
		{"every field empty", reserve(func(c *Reserve) { *c = Reserve{} }),
			"sku qty user_id idempotency_key"},
		{"qty 0", reserve(func(c *Reserve) { c.Qty = 0 }), "qty"},
		{"qty below 0", reserve(func(c *Reserve) { c.Qty = -1 }), "qty"},
		{"qty too large", reserve(func(c *Reserve) { c.Qty = QtyMax + 1 }), "qty"},
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
	}
}

func invalidAdjustments(f *fixture) []invalidCommand {
	adjust := func(change func(*AdjustStock)) func() error {
		command := f.adjustment("shirt", 1)
		change(&command)
		return func() error { return ignore(f.AdjustStock(f.Ctx, command)) }
	}
	return []invalidCommand{
		{"delta 0", adjust(func(c *AdjustStock) { c.Delta = 0 }), "delta"},
		{"delta too large", adjust(func(c *AdjustStock) { c.Delta = DeltaMax + 1 }), "delta"},
		{"reason empty", adjust(func(c *AdjustStock) { c.Reason = "" }), "reason"},
		{"reason of the system", adjust(func(c *AdjustStock) { c.Reason = "external" }), "reason"},
	}
}

func invalidHoldCommands(f *fixture) []invalidCommand {
	confirm := func(command Confirm) func() error {
		return func() error { return ignore(f.Confirm(f.Ctx, command)) }
	}
	tooLong := Confirm{HoldID: "h", PaymentRef: strings.Repeat("x", 129)}
	return []invalidCommand{
		{"confirm with every field empty", confirm(Confirm{}), "hold_id payment_ref"},
		{"confirm with a payment too long", confirm(tooLong), "payment_ref"},
		{"cancel a hold with braces", func() error { return f.cancel("{h}") }, "hold_id"},
		{"read a sku with braces", func() error { return ignore(f.Available(f.Ctx, "{a}")) }, "sku"},
	}
}

// TestValuesAtTheLimitsAreAccepted checks that the longest and largest values that
// validation allows are accepted by every command.
func TestValuesAtTheLimitsAreAccepted(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	sku := "AZaz09._-:@+=" + strings.Repeat("x", 51)
	f.stock(sku, DeltaMax)
	reservation, err := f.Reserve(f.Ctx, Reserve{
		SKU:            sku,
		Qty:            QtyMax,
		UserID:         strings.Repeat("/", 64),
		TTL:            time.Hour,
		IdempotencyKey: strings.Repeat("k", 128),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.confirm(reservation.HoldID, strings.Repeat("p", 128)); err != nil {
		t.Error(err)
	}
	f.WantStock(t, sku, DeltaMax-QtyMax)
	f.wantEventCount(t, 3)
}

// TestDefaultConfigIsValid checks that the defaults pass their own validation.
func TestDefaultConfigIsValid(t *testing.T) {
	t.Parallel()
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

// TestInvalidConfigReportsEveryFault checks that Validate reports all faults at once.
func TestInvalidConfigReportsEveryFault(t *testing.T) {
	t.Parallel()
	invalid := Config{
		HoldTTL:    time.Millisecond,
		HoldTTLMax: 0,
		KeepMemory: -1,
		Timeout:    0,
	}
	err := invalid.Validate()
	if err == nil {
		t.Fatal("got no error, want five faults")
	}
	if got := 1 + strings.Count(err.Error(), "\n"); got != 5 {
		t.Errorf("got %d faults (%v), want 5", got, err)
	}
}

// TestTimeoutAboveTheMaximumIsInvalid checks that a command may not take longer than an
// HTTP answer.
func TestTimeoutAboveTheMaximumIsInvalid(t *testing.T) {
	t.Parallel()
	config := DefaultConfig()
	config.Timeout = TimeoutMax + 1
	if config.Validate() == nil {
		t.Errorf("timeout %s: got no error, want one", config.Timeout)
	}
}

// TestClientThatIgnoresContextDeadlinesIsRejected checks that NewService requires
// ContextTimeoutEnabled of its client.
func TestClientThatIgnoresContextDeadlinesIsRejected(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	_, err := NewService(events.MainPool, client, DefaultConfig())
	if err == nil {
		t.Fatal("got no error, want one that names ContextTimeoutEnabled")
	}
	if !strings.Contains(err.Error(), "ContextTimeoutEnabled") {
		t.Errorf("got %v, want it to name ContextTimeoutEnabled", err)
	}
}
