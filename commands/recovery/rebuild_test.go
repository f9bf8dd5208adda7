package recovery

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestInterruptedRebuildSellsFromNoPartialState interrupts a rebuild at each of its
// steps. It checks that the log stays open as it was if no key was changed yet, that
// nothing is sold otherwise, and that the next reconciliation restores Redis.
func TestInterruptedRebuildSellsFromNoPartialState(t *testing.T) {
	t.Parallel()
	losses := map[string]func(*populatedFixture){
		"healthy": func(*populatedFixture) {},
		"emptied": func(f *populatedFixture) { f.RedisCommand("FLUSHALL") },
		"behind":  func(f *populatedFixture) { f.rollBack() },
	}
	for loss, lose := range losses {
		for _, step := range []string{StepFold, StepWait, StepRemove, StepWrite, StepPublish} {
			t.Run(loss+", "+step, func(t *testing.T) {
				t.Parallel()
				f := newPopulatedFixture(t)
				lose(f)
				err := f.interruptRebuild(step)
				if step == StepWait && loss != "healthy" {
					must(t, err) // such a rebuild does not wait, so it was not interrupted
				} else if err == nil {
					t.Fatal("the interrupted rebuild: got no error, want one")
				}
				_, err = f.Reserve(f.Ctx, f.reserved)
				unchanged := loss == "healthy" && (step == StepFold || step == StepWait)
				switch {
				case unchanged:
					must(t, err)
					must(t, f.Ready(f.Ctx))
				case err != nil:
					if !errors.Is(err, commands.ErrNotReady) && !errors.Is(err, commands.ErrStale) {
						t.Errorf("reserve from a partly restored Redis: got error %v, want ErrNotReady", err)
					}
				case step != StepWait:
					t.Error("reserve from a partly restored Redis: got no error, want ErrNotReady")
				}
				must(t, f.reconcile(f.process))
				f.wantRestored(t, f.process)
				left := f.Operator.Exists(f.Ctx, f.Pool.ClosedMetaKey(), f.Pool.NextMetaKey()).Val()
				if left != 0 {
					t.Errorf("closed and next log heads: got %d left, want 0", left)
				}
			})
		}
	}
}

// interruptRebuild rebuilds in another process, and cancels it when the step begins.
func (f *populatedFixture) interruptRebuild(step string) error {
	f.T.Helper()
	ctx, cancel := context.WithCancel(f.Ctx)
	defer cancel()
	options := RebuildOptions{
		EvenHealthy: true,
		Wait:        5 * time.Second,
		Report: func(p RestoreProgress) {
			if p.Step == step {
				cancel()
			}
		},
	}
	return errorOf(f.newProcess().recovery.Rebuild(ctx, options))
}

// TestRebuildRepairsHealthyRedisOnlyOnRequest checks that Rebuild changes a Redis that
// lacks no event only with EvenHealthy, and that it then repairs every key that differs
// from the journal and keeps unrelated ones.
func TestRebuildRepairsHealthyRedisOnlyOnRequest(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	options := RebuildOptions{Wait: 5 * time.Second}
	wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrHealthy)
	f.WantContents(t, f.contents)

	f.RedisCommand("SET", "stock:shirt", 1_000)
	f.RedisCommand("HSET", "hold:"+f.activeHold, "qty", 99)
	f.RedisCommand("DEL", "hold:"+f.confirmedHold)
	f.RedisCommand("ZADD", "holds:due", 1, "never-was")
	f.RedisCommand("HSET", "hold:odd",
		"sku", "x", "qty", 1, "user_id", "u", "state", "ACTIVE", "expires_at", 1)
	f.RedisCommand("SET", "unrelated", "kept")
	options.EvenHealthy = true
	done, err := f.newProcess().recovery.Rebuild(f.Ctx, options)
	must(t, err)
	want := Rebuilt{
		Epoch:      2,
		Seq:        9,
		SKUs:       2,
		LiveHolds:  3,
		EndedHolds: 2,
		Keys:       6,
	}
	if done != want {
		t.Errorf("rebuild: got %+v, want %+v", done, want)
	}
	f.contents = maps.Clone(f.contents)
	f.contents["unrelated"] = "kept"
	f.wantRestored(t, f.process)
	f.wantSalesContinue(t, f.process, 2)
}

// TestRebuildWaitsForTheJournal checks that a rebuild opens the log again as it was if
// the journal does not reach the log's end in time, and that it rebuilds if the journal
// does.
func TestRebuildWaitsForTheJournal(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	unjournaled := commands.Confirm{HoldID: f.activeHold, PaymentRef: "p"}
	must(t, errorOf(f.Confirm(f.Ctx, unjournaled)))
	before := f.Dump()
	options := RebuildOptions{EvenHealthy: true, Wait: 300 * time.Millisecond}
	wantError(t, "rebuild without a journal", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrUnjournaled)
	f.WantUnchanged(t, before)

	f.contents = f.Contents()
	waiting := make(chan struct{})
	var runner sync.WaitGroup
	runner.Go(func() {
		<-waiting
		f.RunJournal()
	})
	var once sync.Once
	options = RebuildOptions{
		EvenHealthy: true,
		Wait:        20 * time.Second,
		Report: func(p RestoreProgress) {
			if p.Step == StepWait {
				once.Do(func() { close(waiting) })
			}
		},
	}
	_, err := f.recovery.Rebuild(f.Ctx, options)
	runner.Wait()
	must(t, err)
	f.WantContents(t, f.contents)
	if err := f.Ready(f.Ctx); err != nil {
		t.Errorf("ready: got error %v, want none", err)
	}
}

// TestRebuildReopensLogThatTheJournalPassed checks that a rebuild opens the closed log
// again if the journal ends beyond it.
func TestRebuildReopensLogThatTheJournalPassed(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	before := f.Dump()
	conn := testenv.Connect(t, f.Postgres)
	options := RebuildOptions{
		EvenHealthy: true,
		Wait:        compareTimeout,
		Report: func(p RestoreProgress) {
			if p.Step != StepWait {
				return
			}
			_, err := conn.Exec(f.Ctx, `UPDATE checkpoints SET seq = 99 WHERE projection = 'journal'`)
			if err != nil {
				t.Error(err)
			}
		},
	}
	wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrForked)
	f.WantUnchanged(t, before)
}

// TestSaleAfterComparisonStopsRebuild checks that a Redis that is behind is not closed if
// it sold after it was compared, since that sale would be lost.
func TestSaleAfterComparisonStopsRebuild(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	uncompared := f.newUncomparedProcess()
	f.rollBack()
	var sell sync.Once
	var before map[string]string
	options := RebuildOptions{
		Wait: compareTimeout,
		Report: func(RestoreProgress) {
			sell.Do(func() {
				if _, err := uncompared.Reserve(f.Ctx, f.newRequest("shirt", 1)); err != nil {
					t.Error(err)
				}
				before = f.Dump()
			})
		},
	}
	wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), errChanged)
	f.WantUnchanged(t, before)
	wantError(t, "reconcile", f.reconcile(f.process), ErrForked)
}

// TestRebuildDoesNotInitialiseAPool checks that a rebuild creates no log for a pool that
// never had one.
func TestRebuildDoesNotInitialiseAPool(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	options := RebuildOptions{EvenHealthy: true, Wait: time.Second}
	err := errorOf(f.recovery.Rebuild(f.Ctx, options))
	if want := "the pool was never set up"; !strings.Contains(errorText(err), want) {
		t.Errorf("rebuild: got error %v, want %q in it", err, want)
	}
	if keys := f.Operator.Keys(f.Ctx, "*").Val(); len(keys) > 0 {
		t.Errorf("keys in Redis: got %v, want none", keys)
	}
}
