package recovery

import (
	"context"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
)

// TestLogIsReopenedOnlyWhileItsKeysAreUnchanged runs the script that puts a closed log
// head back, in each state in which a restorer can find the pool. After another restorer
// began to write, the keys no longer belong to the closed head, and opening it would sell
// from them.
func TestLogIsReopenedOnlyWhileItsKeysAreUnchanged(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	const epoch = 1
	meta, closed, next := f.Pool.MetaKey(), f.Pool.ClosedMetaKey(), f.Pool.NextMetaKey()
	head := []any{"epoch", epoch, "seq", 9}
	otherHead := []any{"epoch", epoch + 1, "seq", 12}
	tests := map[string]struct {
		keys map[string][]any // the pool's heads before the script runs
		want string
		open string // epoch of the pool's head afterwards, "" for none
	}{
		"the log is closed": {
			keys: map[string][]any{closed: head},
			want: statusReopened,
			open: "1",
		},
		"another restorer began to write": {
			keys: map[string][]any{closed: head, next: otherHead},
			want: statusGone,
		},
		"a log of a later epoch is closed": {
			keys: map[string][]any{closed: otherHead},
			want: statusGone,
		},
		"no log is closed": {
			want: statusGone,
		},
		"the log was reopened by an earlier try": {
			keys: map[string][]any{meta: head},
			want: statusReopened,
			open: "1",
		},
		"another restorer opened its log": {
			keys: map[string][]any{meta: otherHead, closed: head},
			want: statusReopened,
			open: "2",
		},
	}
	for name, test := range tests {
		f.RedisCommand("DEL", meta, closed, next)
		for key, fields := range test.keys {
			f.RedisCommand(append([]any{"HSET", key}, fields...)...)
		}
		before := f.Dump()
		reply, err := reopenScript.Run(f.Ctx, f.Operator, []string{meta, closed, next}, epoch).StringSlice()
		must(t, err)
		if len(reply) != 1 || reply[0] != test.want {
			t.Errorf("%s: got answer %v, want %s", name, reply, test.want)
		}
		if got := f.Operator.HGet(f.Ctx, meta, "epoch").Val(); got != test.open {
			t.Errorf("%s: got a log head of epoch %q, want %q", name, got, test.open)
		}
		if test.want == statusGone || before[meta] != "" {
			f.WantUnchanged(t, before)
		}
	}
}

// TestRebuildThatWasOvertakenDoesNotReopenTheLog has a rebuild wait for the journal with
// the log closed, while another restorer begins to write keys. The rebuild then fails,
// and must leave the pool closed.
func TestRebuildThatWasOvertakenDoesNotReopenTheLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 9)
	f.JournalEverything()
	f.createHold("shirt", 1) // is not journaled, so the rebuild waits
	ctx, cancel := context.WithCancel(f.Ctx)
	defer cancel()
	options := RebuildOptions{
		EvenHealthy: true,
		Wait:        time.Minute,
		Report: func(p RestoreProgress) {
			if p.Step == StepWait && ctx.Err() == nil {
				f.RedisCommand("HSET", f.Pool.NextMetaKey(), "epoch", 2, "seq", 2)
				cancel()
			}
		},
	}
	wantError(t, "rebuild", errorOf(f.recovery.Rebuild(ctx, options)), context.Canceled)
	if n := f.Operator.Exists(f.Ctx, f.Pool.MetaKey()).Val(); n != 0 {
		t.Error("the overtaken rebuild opened the log, want it closed")
	}
	reserve := errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1)))
	wantError(t, "reserve from half-written keys", reserve, commands.ErrNotReady)
	got := f.Operator.HGet(f.Ctx, f.Pool.NextMetaKey(), "epoch").Val()
	if got != "2" {
		t.Errorf("inventory.meta.next: got epoch %q, want 2, as the other restorer wrote it", got)
	}
}
