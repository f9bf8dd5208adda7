package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// savedKey is a key of Redis as DUMP returns it.
type savedKey struct {
	value string
	ttl   time.Duration
}

// saveKeys returns all keys of Redis.
func (f *fixture) saveKeys() map[string]savedKey {
	f.T.Helper()
	saved := map[string]savedKey{}
	for key, value := range f.Dump() {
		saved[key] = savedKey{value: value, ttl: max(0, f.Operator.PTTL(f.Ctx, key).Val())}
	}
	return saved
}

// rewind gives Redis the keys that it had before, as a replica that lags would.
func (f *fixture) rewind(saved map[string]savedKey) {
	f.T.Helper()
	f.RedisCommand("FLUSHALL")
	for key, k := range saved {
		must(f.T, f.Operator.Restore(f.Ctx, key, k.ttl, k.value).Err())
	}
}

// laggingFixture is a populated fixture whose Redis lacks the journal's last nine events,
// which change holds and stock in every way.
type laggingFixture struct {
	*populatedFixture
	before   map[string]savedKey
	newHold  commands.Reserve
	contents map[string]string // as they must be again
}

func newLaggingFixture(t *testing.T) *laggingFixture {
	t.Helper()
	f := &laggingFixture{populatedFixture: newPopulatedFixture(t)}
	f.before = f.saveKeys()
	f.newHold = f.newRequest("coat", 2)
	f.newHold.TTL = 7 * time.Minute
	f.mustReserve(f.newHold)
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: f.activeHold, PaymentRef: "pay-2"})))
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: f.holdWithTTL})))
	f.addStock("shirt", 4)
	f.addStock("hat", 3)
	made := f.createHold("hat", 1)
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: made, PaymentRef: "pay-3"})))
	made = f.createHold("hat", 2)
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: made})))
	f.JournalEverything()
	f.contents = f.Contents()
	f.rewind(f.before)
	return f
}

const advanced = "Redis is advanced to the journal's end"

// reconcileAndLog reconciles in another process, and returns its log.
func (f *fixture) reconcileAndLog() string {
	f.T.Helper()
	log := &testenv.LogBuffer{}
	must(f.T, f.reconcile(f.newProcessWithLog(slog.New(slog.NewTextHandler(log, nil)))))
	return log.String()
}

// TestRedisThatLagsIsAdvanced checks that a Redis which is behind gets the journal's last
// events, that its other keys are not written again, and that sales go on.
func TestRedisThatLagsIsAdvanced(t *testing.T) {
	t.Parallel()
	f := newLaggingFixture(t)
	f.RedisCommand("PEXPIRE", "idem:opening", 40_000_000) // a restore would set it again
	f.RedisCommand("SET", "stock:coat", 77)               // nothing has recorded that
	if log := f.reconcileAndLog(); !strings.Contains(log, advanced) {
		t.Errorf("log: got %s, want %q", log, advanced)
	}
	f.WantContents(t, f.contents)
	if got := f.Operator.PTTL(f.Ctx, "idem:opening").Val(); got > 40_000*time.Second {
		t.Errorf("idem:opening: got written again (it expires in %s), want it left alone", got)
	}
	f.wantRemainingTTL(t, "hold:"+f.holdWithTTL, 24*time.Hour)
	f.wantHead(t, 2, 18)
	must(t, f.reconcile(f.process))
	again, err := f.Reserve(f.Ctx, f.newHold)
	must(t, err)
	if !again.Replayed {
		t.Errorf("reserve again: got %+v, want a replay", again)
	}
	f.wantAdjustReplayed(t, f.process)
	f.createHold("hat", 1)
	f.JournalEverything()
}

// TestRedisWhoseKeysDoNotFitIsRestored checks that Redis is restored completely if its
// keys are not those of its log.
func TestRedisWhoseKeysDoNotFitIsRestored(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *laggingFixture){
		"a hold that ends is missing": func(f *laggingFixture) {
			f.RedisCommand("DEL", "hold:"+f.activeHold)
		},
		"a hold that ends has ended": func(f *laggingFixture) {
			f.RedisCommand("HSET", "hold:"+f.activeHold, "state", "CANCELLED", "ended_seq", 1)
		},
		"a hold that ends has another quantity": func(f *laggingFixture) {
			f.RedisCommand("HSET", "hold:"+f.activeHold, "qty", 9)
		},
		"a hold that ends is no hash": func(f *laggingFixture) {
			f.RedisCommand("SET", "hold:"+f.activeHold, "x")
		},
		"a hold is there before it is made": func(f *laggingFixture) {
			again, err := f.newUncomparedProcess().Reserve(f.Ctx, f.newHold)
			must(f.T, err)
			f.rewind(f.before)
			f.RedisCommand("HSET", "hold:"+again.HoldID, "sku", "coat")
			f.execute(`UPDATE events SET hold_id = $1, payload = payload || jsonb_build_object('hold_id', $1::text)
				WHERE seq = 10`, again.HoldID)
			f.contents = nil // the hold has another id
		},
		"the recorded stock is no number": func(f *laggingFixture) {
			f.RedisCommand("HSET", "inventory.meta", "stock:shirt", "many")
		},
		"the recorded stock is too low": func(f *laggingFixture) {
			f.RedisCommand("HSET", "inventory.meta", "stock:coat", 0)
		},
		"an idempotency key of another program is in the way": func(f *laggingFixture) {
			f.RedisCommand("SET", "idem:"+f.newHold.IdempotencyKey, "taken")
			f.contents["idem:"+f.newHold.IdempotencyKey] = "taken" // a restore leaves it
		},
		"the stream lacks the last entry": func(f *laggingFixture) {
			f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 0)
		},
		"the stream goes on beyond the log head": func(f *laggingFixture) {
			f.RedisCommand("HINCRBY", "inventory.meta", "seq", -1)
		},
		"an event is old": func(f *laggingFixture) {
			f.execute(`UPDATE events SET at = at - interval '2 hours' WHERE seq = 15`)
			f.contents = nil // the ttl of its key is another
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLaggingFixture(t)
			damage(f)
			if log := f.reconcileAndLog(); strings.Contains(log, advanced) {
				t.Errorf("log: got %s, want a complete restore", log)
			}
			if f.contents != nil {
				f.WantContents(t, f.contents)
			}
			f.WantStock(t, "shirt", 20)
			f.WantStock(t, "coat", 3)
		})
	}
}

// TestInterruptedAdvanceIsCompleted ends an advance while keys are written, and as the
// log is opened. The next look must restore Redis completely.
func TestInterruptedAdvanceIsCompleted(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepWrite, StepPublish} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newLaggingFixture(t)
			r := f.newProcess().recovery
			lease, err := worker.AcquireLease(f.Ctx, f.Postgres, r.leaseName())
			must(t, err)
			c, _, err := r.compare(f.Ctx, lease.Conn)
			must(t, err)
			ctx, cancel := context.WithCancel(f.Ctx)
			restore, err := r.newRestorer(f.Ctx, lease, func(p RestoreProgress) {
				if p.Step == step {
					cancel()
				}
			})
			must(t, err)
			must(t, restore.verify(f.Ctx, c))
			restore.advances, err = restore.mayAdvance(f.Ctx, c)
			must(t, err)
			err = restore.run(ctx, c)
			if !errors.Is(err, context.Canceled) || !restore.advances {
				t.Fatalf("advance: got error %v (%t), want it interrupted", err, restore.advances)
			}
			lease.Release()
			_, err = f.newUncomparedProcess().Reserve(f.Ctx, f.newRequest("shirt", 1))
			wantError(t, "reserve", err, commands.ErrNotReady)
			must(t, f.reconcile(f.process))
			f.WantContents(t, f.contents)
		})
	}
}

// TestRedisIsAdvancedWithoutOldPartitions checks that a Redis which lags needs only the
// events that it lacks and the one before, although older ones are missing in the
// journal.
func TestRedisIsAdvancedWithoutOldPartitions(t *testing.T) {
	t.Parallel()
	f := newLaggingFixture(t)
	f.execute(`DELETE FROM events WHERE seq < 9`)
	must(t, f.reconcile(f.process))
	f.WantContents(t, f.contents)
}

// TestRedisIsNotAdvancedWithoutAComparison checks that Redis is not advanced if the
// journal no longer has the event at which Redis's log ends, or has nothing after it.
func TestRedisIsNotAdvancedWithoutAComparison(t *testing.T) {
	t.Parallel()
	f := newLaggingFixture(t)
	f.execute(`DELETE FROM events WHERE seq = 9`)
	wantError(t, "reconcile", f.reconcile(f.process), ErrJournalIncomplete)

	f = newLaggingFixture(t)
	f.execute(`DELETE FROM events WHERE seq >= 9`)
	f.execute(`UPDATE checkpoints SET seq = 9 WHERE projection = 'journal'`)
	f.execute(`UPDATE pools SET epoch = epoch + 1`)
	wantError(t, "reconcile", f.reconcile(f.process), ErrJournalIncomplete)
}

// TestServiceUserMayAdvance checks that a Redis is advanced, and a pool repaired, by a
// Redis user that has exactly the documented rights.
func TestServiceUserMayAdvance(t *testing.T) {
	t.Parallel()
	f := newLaggingFixture(t)
	f.setUser(UserRule(f.Pool))
	seller := f.newProcessOn(f.sellerClient(), slog.New(slog.DiscardHandler))
	must(t, f.reconcile(seller))
	f.WantContents(t, f.contents)

	f.createHold("hat", 1)
	f.RedisCommand("DEL", "inventory.events")
	_, err := seller.recovery.Repair(f.Ctx, RepairOptions{
		Keep: SideRedis,
		Wait: compareTimeout,
		Save: func(write func(io.Writer) error) error { return write(io.Discard) },
	})
	must(t, err)
}

// TestOvertakenRestoreIsNotAdvanced has a restore that lost its lease go on, and remove
// keys, while another one is about to advance Redis. That one must not publish the rest.
func TestOvertakenRestoreIsNotAdvanced(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprint("begun ", begun), func(t *testing.T) {
			t.Parallel()
			f := newLaggingFixture(t)
			late, lateComparison := f.newRestore()
			epoch, journaled, err := late.raiseEpoch(f.Ctx, late.lease, lateComparison)
			must(t, err)
			must(t, late.foldTo(f.Ctx, journaled))
			late.lease.Release()

			restore, c := f.newRestore()
			restore.advances, err = restore.mayAdvance(f.Ctx, c)
			must(t, err)
			if !restore.advances {
				t.Fatal("Redis may not be advanced, want that it may")
			}
			must(t, errorOf(late.closeLog(f.Ctx, lateComparison.head.Epoch, "")))
			if begun {
				writer, err := late.beginWriting(f.Ctx, epoch, journaled, c.server)
				must(t, err)
				must(t, writer.removeKeys(f.Ctx, late.state, func(int64) {}))
			}
			if err = restore.run(f.Ctx, c); begun {
				wantError(t, "advance", err, errChanged)
			} else {
				must(t, err)
			}
			restore.lease.Release()
			must(t, f.reconcile(f.process))
			f.WantContents(t, f.contents)
		})
	}
}

// newRestore returns a restorer of another process that has verified the log, and its
// comparison. It holds the lease.
func (f *fixture) newRestore() (*restorer, comparison) {
	f.T.Helper()
	r := f.newProcess().recovery
	lease, err := worker.AcquireLease(f.Ctx, f.Postgres, r.leaseName())
	must(f.T, err)
	f.T.Cleanup(lease.Release)
	c, _, err := r.compare(f.Ctx, lease.Conn)
	must(f.T, err)
	restore, err := r.newRestorer(f.Ctx, lease, func(RestoreProgress) {})
	must(f.T, err)
	must(f.T, restore.verify(f.Ctx, c))
	return restore, c
}
