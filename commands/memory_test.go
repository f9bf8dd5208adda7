package commands

import (
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// serviceThatKeeps returns a service on the fixture's Redis, with its gate open, that
// remembers keys for keep.
func (f *fixture) serviceThatKeeps(keep time.Duration) *Service {
	f.T.Helper()
	config := DefaultConfig()
	config.KeepMemory = keep
	service, err := NewService(events.MainPool, testenv.RedisClient(f.T, f.Server), config)
	if err != nil {
		f.T.Fatal(err)
	}
	f.T.Cleanup(func() {
		if err := service.Close(); err != nil {
			f.T.Errorf("close the service: %v", err)
		}
	})
	service.Gate().Open()
	return service
}

// wantTTL checks that a key expires in want, less at most a minute for the time since it
// was written.
func (f *fixture) wantTTL(t *testing.T, key string, want time.Duration) {
	t.Helper()
	if got := f.Operator.PTTL(f.Ctx, key).Val(); got > want || got < want-time.Minute {
		t.Errorf("%s expires in %s, want %s", key, got, want)
	}
}

// TestEndedHoldOutlivesItsKey makes a hold with one setting of the memory and ends it
// with another. It checks that the idempotency key is kept as it was promised, and that
// the hold is kept at least as long, so that a repeated reservation is told its status.
func TestEndedHoldOutlivesItsKey(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	tests := map[string]struct{ made, ended, wantHold time.Duration }{
		"the setting is lowered": {made: 3 * day, ended: day, wantHold: 3 * day},
		"the setting is raised":  {made: day, ended: 3 * day, wantHold: 3 * day},
		"the setting stays":      {made: 2 * day, ended: 2 * day, wantHold: 2 * day},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 2)
			before := f.serviceThatKeeps(test.made)
			after := f.serviceThatKeeps(test.ended)
			for _, wantStatus := range []events.HoldStatus{events.StatusConfirmed, events.StatusCancelled} {
				request := f.request("shirt", 1)
				made, err := before.Reserve(f.Ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				if wantStatus == events.StatusConfirmed {
					_, err = after.Confirm(f.Ctx, Confirm{HoldID: made.HoldID, PaymentRef: "p"})
				} else {
					_, err = after.Cancel(f.Ctx, Cancel{HoldID: made.HoldID})
				}
				if err != nil {
					t.Fatal(err)
				}
				f.wantTTL(t, f.Pool.IdempotencyKey(request.IdempotencyKey), test.made)
				f.wantTTL(t, f.Pool.HoldKey(made.HoldID), test.wantHold)
				repeated, err := after.Reserve(f.Ctx, request)
				if err != nil {
					t.Fatal(err)
				}
				if repeated.Status != wantStatus {
					t.Errorf("reserve again: got status %s, want %s", repeated.Status, wantStatus)
				}
			}
		})
	}
}

// TestForgottenHoldIsNotActive checks that a repeated reservation whose hold Redis no
// longer has is refused, and that the refusal names the hold.
func TestForgottenHoldIsNotActive(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 1)
	request := f.request("shirt", 1)
	made, err := f.Reserve(f.Ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.confirm(made.HoldID, "p"); err != nil {
		t.Fatal(err)
	}
	f.RedisCommand("DEL", f.Pool.HoldKey(made.HoldID))
	err = ignore(f.Reserve(f.Ctx, request))
	wantRefusal(t, err, ErrUnknownHold)
	if err != nil && !strings.Contains(err.Error(), made.HoldID) {
		t.Errorf("reserve again: got error %v, want the hold %s in it", err, made.HoldID)
	}
}
