package commands

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
)

// stoppedClock is a Redis whose scripts are told one and the same time.
type stoppedClock struct {
	redis.Scripter
	seconds int64
}

// EvalSha has the script itself sent.
func (stoppedClock) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(scriptError("NOSCRIPT"))
	return cmd
}

func (c stoppedClock) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	const clock = `
		local redis = setmetatable({call = function(name, ...)
			if name == 'TIME' then return {'%d', '0'} end
			return redis.call(name, ...)
		end}, {__index = redis})
	`
	return c.Scripter.Eval(ctx, fmt.Sprintf(clock, c.seconds)+script, keys, args...)
}

// TestDeadlineToTheMillisecond holds that up to the last millisecond before the deadline a hold can be confirmed and
// cancelled and does not expire, and that from the deadline on it is the other way round.
func TestDeadlineToTheMillisecond(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 100)
	const seconds = 2_000_000_000
	acts := map[string]struct {
		act           func(holdID string) error
		before, after error
	}{
		"confirm": {func(id string) error { return ignore(s.Confirm(s.ctx, Confirm{HoldID: id, PaymentRef: "p"})) }, nil, ErrHoldExpired},
		"cancel":  {func(id string) error { return ignore(s.Cancel(s.ctx, Cancel{HoldID: id})) }, nil, ErrHoldExpired},
		"expire":  {func(id string) error { return ignore(s.Cancel(s.ctx, Cancel{HoldID: id, Expired: true})) }, ErrNotDue, nil},
	}
	s.batcher.client = stoppedClock{Scripter: s.operator, seconds: seconds}
	for name, test := range acts {
		for left, want := range map[int64]error{1: test.before, 0: test.after, -1: test.after} {
			id := s.hold("shirt", 1)
			s.typed("HSET", s.pool.HoldKey(id), "expires_at", seconds*1000+left)
			if err := test.act(id); !errors.Is(err, want) {
				t.Errorf("%s with %d ms left: got %v, want %v", name, left, err, want)
			}
		}
	}
}
