package recovery

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stockstream/stockstream/internal/testenv"
)

// crashes are the moments at which a rebuild is cut off.
var crashes = []string{StepFold, StepWait, StepRemove, StepWrite, StepPublish}

// TestCutOff cuts a rebuild off at each of its steps. Before a key was touched the log is open as it was; from then on
// nothing is sold, whatever there is in Redis, until the next try has come to its end.
func TestCutOff(t *testing.T) {
	t.Parallel()
	losses := map[string]func(*busyShop){
		"healthy": func(*busyShop) {},
		"emptied": func(b *busyShop) { b.typed("FLUSHALL") },
		"behind":  func(b *busyShop) { b.rollBack() },
	}
	for loss, lose := range losses {
		for _, step := range crashes {
			t.Run(loss+", "+step, func(t *testing.T) {
				t.Parallel()
				b := openBusyShop(t)
				lose(b)
				dying, die := context.WithCancel(b.ctx)
				defer die()
				other := b.anotherService()
				_, err := other.Rebuild(dying, b.postgres, RebuildOptions{EvenHealthy: true, Wait: 5 * time.Second, Report: func(p Progress) {
					if p.Step == step {
						die()
					}
				}})
				if step == StepWait && loss != "healthy" {
					must(t, err) // there is nothing to wait for
				} else if err == nil {
					t.Fatal("it was cut off, and says that it succeeded")
				}
				untouched := loss == "healthy" && (step == StepFold || step == StepWait)
				_, err = b.Reserve(b.ctx, b.reserved)
				switch {
				case untouched:
					must(t, err)
					must(t, b.Ready(b.ctx))
				case err != nil:
					if !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrStale) {
						t.Errorf("reserve from a half restored Redis: got %v, want ErrNotReady", err)
					}
				case step != StepWait:
					t.Error("it sells from a half restored Redis")
				}
				must(t, b.Open(b.ctx, b.postgres))
				b.wantAsBefore(t, b.Service)
				if left := b.operator.Exists(b.ctx, b.pool.ClosedMetaKey(), b.pool.NextMetaKey()).Val(); left != 0 {
					t.Errorf("%d hashes are left over", left)
				}
			})
		}
	}
}

// rollBack makes Redis what it was after the fifth event, as an older copy of its data would.
func (b *busyShop) rollBack() {
	b.t.Helper()
	entries := b.operator.XRange(b.ctx, b.pool.StreamKey(), "-", "+").Val()
	for _, entry := range entries[5:] {
		b.typed("XDEL", b.pool.StreamKey(), entry.ID)
	}
	b.typed("HSET", b.pool.MetaKey(), "seq", 5, "stock:shirt", 17, "stock:coat", 4)
	b.typed("DEL", "hold:"+b.due, "idem:opening")
	b.typed("SET", "stock:shirt", 17)
	b.typed("SET", "idem:never", "made up")
}

// TestRebuild holds what a rebuild on demand does to a Redis that has drifted, and to one that has not.
func TestRebuild(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	options := RebuildOptions{Wait: 5 * time.Second}
	if _, err := b.Rebuild(b.ctx, b.postgres, options); !errors.Is(err, ErrHealthy) {
		t.Errorf("got %v, want ErrHealthy", err)
	}
	b.wantState(t, b.before)
	b.typed("SET", "stock:shirt", 1_000)
	b.typed("HSET", "hold:"+b.live, "qty", 99)
	b.typed("DEL", "hold:"+b.paid)
	b.typed("ZADD", "holds:due", 1, "never-was")
	b.typed("SET", "hold:odd", "a string")
	b.typed("SET", "unrelated", "kept")
	options.EvenHealthy = true
	done, err := b.anotherService().Rebuild(b.ctx, b.postgres, options)
	if want := (Rebuilt{Epoch: 2, Seq: 9, SKUs: 2, LiveHolds: 3, EndedHolds: 2, Keys: 6}); err != nil || done != want {
		t.Errorf("got %+v (%v), want %+v", done, err, want)
	}
	b.before = maps.Clone(b.before)
	b.before["unrelated"] = "kept"
	b.wantAsBefore(t, b.Service)
	b.wantGoesOn(t, b.Service, 2)
}

// TestRebuildWithoutAJournal holds that a rebuild whose journal does not come to the log's end in time opens the log as
// it was, and that it waits for one that does.
func TestRebuildWithoutAJournal(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	must(t, ignore(b.Confirm(b.ctx, Confirm{HoldID: b.live, PaymentRef: "p"}))) // which is not journaled
	before := b.dump()
	_, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: 300 * time.Millisecond})
	if !errors.Is(err, ErrUnjournaled) {
		t.Errorf("got %v, want ErrUnjournaled", err)
	}
	b.wantUnchanged(t, before)
	b.before = b.contents()
	waiting := make(chan struct{})
	var journal sync.WaitGroup
	journal.Go(func() {
		<-waiting
		b.journal()
	})
	var once sync.Once
	_, err = b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: 20 * time.Second, Report: func(p Progress) {
		if p.Step == StepWait {
			once.Do(func() { close(waiting) })
		}
	}})
	journal.Wait()
	must(t, err)
	b.wantState(t, b.before)
	if err := b.Ready(b.ctx); err != nil {
		t.Errorf("ready: %v", err)
	}
}

// TestJournalBeyondTheLog holds that a rebuild during which the journal comes to end elsewhere than the log that was
// closed opens that log again.
func TestJournalBeyondTheLog(t *testing.T) {
	t.Parallel()
	b := openBusyShop(t)
	before := b.dump()
	conn := testenv.Connect(t, b.postgres)
	_, err := b.Rebuild(b.ctx, b.postgres, RebuildOptions{EvenHealthy: true, Wait: lookTimeout, Report: func(p Progress) {
		if p.Step != StepWait {
			return
		}
		if _, err := conn.Exec(b.ctx, `UPDATE checkpoints SET seq = 99 WHERE projection = 'journal'`); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, ErrForked) {
		t.Errorf("got %v, want ErrForked", err)
	}
	b.wantUnchanged(t, before)
}

// TestNothingToRebuild holds that a pool that was never set up is not set up by a rebuild.
func TestNothingToRebuild(t *testing.T) {
	t.Parallel()
	s := closedShop(t)
	if _, err := s.Rebuild(s.ctx, s.postgres, RebuildOptions{EvenHealthy: true, Wait: time.Second}); !errors.Is(err, ErrNothing) {
		t.Errorf("got %v, want ErrNothing", err)
	}
	if keys := s.operator.Keys(s.ctx, "*").Val(); len(keys) > 0 {
		t.Errorf("it wrote %v", keys)
	}
}
