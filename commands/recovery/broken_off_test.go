package recovery

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// newProcessWithout returns a process, with its gate open, whose Redis user has every
// right but one.
func (f *fixture) newProcessWithout(command string) *process {
	f.T.Helper()
	f.setUser("~* &* +@all -" + command)
	p := f.newProcessOn(f.sellerClient(), slog.New(slog.DiscardHandler))
	p.Gate().Open()
	return p
}

// commandsToBreakOff returns one command of each kind, which may be sent repeatedly.
func (f *populatedFixture) commandsToBreakOff() map[string]func(*process) error {
	request := f.newRequest("shirt", 1)
	adjustment := commands.AdjustStock{
		SKU:            "shirt",
		Delta:          3,
		Reason:         "delivery",
		IdempotencyKey: f.Key(),
	}
	return map[string]func(*process) error{
		"reserve": func(p *process) error { return errorOf(p.Reserve(f.Ctx, request)) },
		"adjust":  func(p *process) error { return errorOf(p.AdjustStock(f.Ctx, adjustment)) },
		"confirm": func(p *process) error {
			return errorOf(p.Confirm(f.Ctx, commands.Confirm{HoldID: f.activeHold, PaymentRef: "p"}))
		},
		"cancel": func(p *process) error {
			return errorOf(p.Cancel(f.Ctx, commands.Cancel{HoldID: f.holdWithTTL}))
		},
		"expire": func(p *process) error {
			return errorOf(p.Cancel(f.Ctx, commands.Cancel{HoldID: f.expiringHold, Expired: true}))
		},
	}
}

// TestCommandThatBreaksOffIsCompletedFromTheJournal takes one right after the other from
// the Redis user of a process, and sends each kind of command. If Redis refuses a write
// after the event was appended, no command may be decided until Redis was restored from
// the journal. The repeated command then has one effect, and Redis has exactly what
// follows from the journal.
func TestCommandThatBreaksOffIsCompletedFromTheJournal(t *testing.T) {
	t.Parallel()
	brokenOff := map[string]bool{"set": true, "zadd": true, "zrem": true, "pexpire": true}
	for _, right := range []string{"set", "zadd", "zrem", "pexpire", "hset", "xadd"} {
		t.Run("without "+right, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			p := f.newProcessWithout(right)
			f.RunJournal()
			broken := 0
			for name, run := range f.commandsToBreakOff() {
				before, err := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
				must(t, err)
				testenv.Eventually(t, 5*time.Second, func() (bool, string) {
					err = run(p)
					return !errors.Is(err, commands.ErrNotDue), "expire: not due yet"
				})
				after, headErr := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
				must(t, headErr)
				switch {
				case after.Unfinished:
					broken++
					reserve := errorOf(p.Reserve(f.Ctx, f.newRequest("shirt", 1)))
					wantError(t, "reserve after "+name, reserve, commands.ErrNotReady)
				case err != nil && after.Seq != before.Seq:
					t.Errorf("%s: got error %v and a log at seq %d, want it still at %d",
						name, err, after.Seq, before.Seq)
				}
				testenv.Eventually(t, 10*time.Second, func() (bool, string) {
					err := f.reconcile(f.process)
					return err == nil, "reconcile: " + errorText(err)
				})
				must(t, run(f.process))
			}
			if got := broken > 0; got != brokenOff[right] {
				t.Errorf("commands that broke off: got %d, want some: %t", broken, brokenOff[right])
			}
			f.wantHead(t, f.epoch(), 14) // nine events, and one for each command
			f.AwaitJournaled()
			contents := f.Contents()
			f.RedisCommand("FLUSHALL")
			must(t, f.reconcile(f.process))
			f.WantContents(t, contents)
		})
	}
}

// epoch returns the epoch of Redis's log.
func (f *fixture) epoch() int64 {
	f.T.Helper()
	head, err := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
	must(f.T, err)
	return head.Epoch
}
