package commands

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
)

// stoppedClock is a Redis in whose scripts the time stands still.
type stoppedClock struct {
	redis.Scripter
	seconds int64
}

// EvalSha answers that Redis does not know the script, so that the caller sends it to
// Eval.
func (stoppedClock) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(scriptError("NOSCRIPT"))
	return cmd
}

// Eval runs the script with a TIME command that always returns the same time.
func (c stoppedClock) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	const clock = `
		local redis = setmetatable({call = function(name, ...)
			if name == 'TIME' then return {'%d', '0'} end
			return redis.call(name, ...)
		end}, {__index = redis})
	`
	return c.Scripter.Eval(ctx, fmt.Sprintf(clock, c.seconds)+script, keys, args...)
}

// TestDeadlineIsExactToTheMillisecond checks that a hold can be confirmed and cancelled,
// and does not expire, up to the last millisecond before its deadline. From the deadline
// on, it can only expire.
func TestDeadlineIsExactToTheMillisecond(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 100)
	const nowSeconds = 2_000_000_000
	f.batcher.client = stoppedClock{Scripter: f.Operator, seconds: nowSeconds}
	commands := map[string]struct {
		run       func(holdID string) error
		beforeErr error
		afterErr  error
	}{
		"confirm": {
			run:      func(id string) error { return f.confirm(id, "p") },
			afterErr: ErrHoldExpired,
		},
		"cancel": {
			run:      f.cancel,
			afterErr: ErrHoldExpired,
		},
		"expire": {
			run:       f.expire,
			beforeErr: ErrNotDue,
		},
	}
	for name, command := range commands {
		wantByMsLeft := map[int64]error{
			1:  command.beforeErr,
			0:  command.afterErr,
			-1: command.afterErr,
		}
		for msLeft, want := range wantByMsLeft {
			id := f.hold("shirt", 1)
			f.RedisCommand("HSET", f.Pool.HoldKey(id), "expires_at", nowSeconds*1000+msLeft)
			if err := command.run(id); !errors.Is(err, want) {
				t.Errorf("%s with %d ms left: got %v, want %v", name, msLeft, err, want)
			}
		}
	}
}
