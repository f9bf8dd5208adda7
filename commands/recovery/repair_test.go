package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// repair repairs in another process, and returns what it saved.
func (f *fixture) repair(keep Side) (done Repair, saved string, err error) {
	f.T.Helper()
	var file bytes.Buffer
	done, err = f.newProcess().recovery.Repair(f.Ctx, RepairOptions{
		Keep: keep,
		Wait: compareTimeout,
		Save: func(write func(io.Writer) error) error { return write(&file) },
	})
	return done, file.String(), err
}

// mustRepair repairs in another process, and reconciles afterwards.
func (f *fixture) mustRepair(keep Side) (done Repair, saved string) {
	f.T.Helper()
	done, saved, err := f.repair(keep)
	must(f.T, err)
	must(f.T, f.reconcile(f.process))
	return done, saved
}

// lostEvents is a populated fixture whose Redis went on after the journal's end: ann
// holds 3 shirts more and cancelled her active hold, and Redis has another five coats.
type lostEvents struct {
	*populatedFixture
	newHold commands.Reserve
	newID   string
	added   commands.AdjustStock
}

func newLostEvents(t *testing.T) *lostEvents {
	t.Helper()
	f := &lostEvents{populatedFixture: newPopulatedFixture(t)}
	f.newHold = f.newRequest("shirt", 3)
	f.newHold.TTL = 7 * time.Minute
	f.newID = f.mustReserve(f.newHold)
	must(t, errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: f.activeHold})))
	f.added = commands.AdjustStock{
		SKU:            "coat",
		Delta:          5,
		Reason:         "delivery",
		IdempotencyKey: "more-coats",
	}
	must(t, errorOf(f.AdjustStock(f.Ctx, f.added)))
	return f
}

// waysToLoseEvents lead to a Redis whose stream does not reach back to the journal's end.
// The stream then has some of the events 10 to 12 that the journal lacks.
var waysToLoseEvents = map[string]func(f *lostEvents){
	"stream deleted": func(f *lostEvents) {
		f.RedisCommand("DEL", "inventory.events")
	},
	"stream trimmed": func(f *lostEvents) {
		f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 1)
	},
	"newest entry deleted": func(f *lostEvents) {
		f.removeEntry()
	},
	"only foreign entries left": func(f *lostEvents) {
		f.RedisCommand("DEL", "inventory.events")
		f.RedisCommand("XADD", "inventory.events", "*", "hello", "world")
	},
}

// TestLostEventsCloseThePool checks that a pool stops selling as soon as a process looks
// at it, if neither the journal nor the stream has all of Redis's events, and that
// nothing is changed until an operator decides.
func TestLostEventsCloseThePool(t *testing.T) {
	t.Parallel()
	for name, lose := range waysToLoseEvents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLostEvents(t)
			must(t, f.reconcile(f.process))
			lose(f)
			before := f.Dump()
			f.watch(f.process)
			f.awaitClosed(f.process, ErrStreamGap)
			wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
			options := RebuildOptions{EvenHealthy: true, Wait: compareTimeout}
			wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrStreamGap)
			if _, _, err := f.repair(SideNone); err != nil {
				t.Errorf("look: got error %v", err)
			}
			f.WantUnchanged(t, before)
		})
	}
}

// TestOlderBackupOfPostgresClosesThePool checks that a pool stops selling if Postgres was
// restored from a backup whose end the stream no longer reaches.
func TestOlderBackupOfPostgresClosesThePool(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.execute(`DELETE FROM events WHERE seq > 4`)
	f.execute(`UPDATE checkpoints SET seq = 4 WHERE projection = 'journal'`)
	must(t, f.reconcile(f.process)) // the stream still has the events 5 to 9
	f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 2)
	wantError(t, "reconcile", f.reconcile(f.process), ErrStreamGap)

	done, _ := f.mustRepair(SideRedis)
	if done.Journaled != 4 || done.RedisEnd != 9 {
		t.Errorf("repair: got the journal's end %d and Redis's %d, want 4 and 9", done.Journaled, done.RedisEnd)
	}
	f.WantStock(t, "shirt", 16)
	f.WantStock(t, "coat", 4)
	f.wantReserveReplayed(t, f.process)
	f.wantEndedHoldsRemembered(t, f.process)
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: f.activeHold, PaymentRef: "p"})))
	f.JournalEverything()
}

// TestJournalIsKept checks that Redis is restored from the journal, that what Redis knew
// is counted and saved before, and that sales go on.
func TestJournalIsKept(t *testing.T) {
	t.Parallel()
	for name, lose := range waysToLoseEvents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLostEvents(t)
			lose(f)
			_, saved := f.mustRepair(SideJournal)
			for _, want := range []string{f.newID, f.activeHold} {
				if !strings.Contains(saved, want) {
					t.Errorf("saved: got %s, want the hold %s in it", saved, want)
				}
			}
			f.WantContents(t, f.contents)
			f.wantReserveReplayed(t, f.process)
			f.wantAdjustReplayed(t, f.process)
			f.wantSalesContinue(t, f.process, 3)
		})
	}
}

// TestRedisIsKept checks that the journal gets events for what Redis knows, that Redis's
// stock and holds stay as they were, that repeated requests get the same answer, and that
// sales go on.
func TestRedisIsKept(t *testing.T) {
	t.Parallel()
	for name, lose := range waysToLoseEvents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLostEvents(t)
			lose(f)
			looked, _, err := f.repair(SideNone)
			must(t, err)
			done, _ := f.mustRepair(SideRedis)
			for what, facts := range map[string]RedisFacts{"look": looked.Facts, "repair": done.Facts} {
				if got, want := facts.Created, (HoldCount{Holds: 1, Units: 3}); got != want {
					t.Errorf("%s: got %+v created, want %+v", what, got, want)
				}
				if got, want := facts.Ended, (HoldCount{Holds: 1, Units: 2}); got != want {
					t.Errorf("%s: got %+v ended, want %+v", what, got, want)
				}
				if len(facts.Keys) != 1 || facts.Keys[0].Key != f.added.IdempotencyKey {
					t.Errorf("%s: got the keys of adjustments %v, want that of the lost one", what, facts.Keys)
				}
				want := []StockDifference{
					{SKU: "coat", Journal: 4, Redis: 9},
					{SKU: "shirt", Journal: 16, Redis: 15},
				}
				if !slices.Equal(facts.Stock, want) {
					t.Errorf("%s: got the stock %v, want %v", what, facts.Stock, want)
				}
			}
			f.WantStock(t, "shirt", 15)
			f.WantStock(t, "coat", 9)
			again, err := f.Reserve(f.Ctx, f.newHold)
			must(t, err)
			if again.HoldID != f.newID || !again.Replayed {
				t.Errorf("reserve again: got %+v, want the hold %s, replayed", again, f.newID)
			}
			cancelled, err := f.Cancel(f.Ctx, commands.Cancel{HoldID: f.activeHold})
			must(t, err)
			if !cancelled.Replayed {
				t.Errorf("cancel again: got %+v, want a replay", cancelled)
			}
			must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: f.newID, PaymentRef: "p"})))
			f.wantAdjustReplayed(t, f.process)
			f.JournalEverything()

			// The journal alone leads to the same state.
			contents := f.Contents()
			f.RedisCommand("FLUSHALL")
			must(t, f.reconcile(f.process))
			f.WantContents(t, contents)
		})
	}
}

// TestForkIsRepaired checks that a fork is ended by the journal's log, and that the
// events of Redis's log are saved.
func TestForkIsRepaired(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.rollBack()
	uncompared := f.newUncomparedProcess()
	sold, err := uncompared.Reserve(f.Ctx, f.newRequest("shirt", 1))
	must(t, err)
	wantError(t, "reconcile", f.reconcile(f.process), ErrForked)
	wantError(t, "keep Redis, which is behind", errorOfRepair(f.repair(SideRedis)), ErrOnlyJournal)
	_, saved := f.mustRepair(SideJournal)
	if got := strings.Count(saved, sold.HoldID); got != 2 {
		t.Errorf("saved: got the hold %s %d times, want once from its keys and once from the stream", sold.HoldID, got)
	}
	f.wantRestored(t, f.process)
}

// TestJournalIsKeptWithoutALogHead checks that a Redis without a log head, whose stream
// begins beyond the journal's end, does not wait for ever.
func TestJournalIsKeptWithoutALogHead(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 1)
	f.RedisCommand("DEL", "inventory.meta")
	wantError(t, "reconcile", f.reconcile(f.process), ErrStreamGap)
	wantError(t, "keep Redis, which has no log", errorOfRepair(f.repair(SideRedis)), ErrOnlyJournal)
	f.mustRepair(SideJournal)
	f.WantStock(t, "coat", 4)
	f.wantSalesContinue(t, f.process, 3)
}

// TestNothingToRepair checks that a healthy pool is not changed.
func TestNothingToRepair(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.createHold("shirt", 1) // not journaled yet
	before := f.Dump()
	for _, keep := range []Side{SideNone, SideJournal, SideRedis} {
		wantError(t, "repair", errorOfRepair(f.repair(keep)), ErrNothingToRepair)
	}
	f.WantUnchanged(t, before)
}

// beginRepair begins a repair in another process, up to step 2. The test continues it, or
// ends it by releasing the lease, as a killed process would.
func (f *fixture) beginRepair() (r *repairer, lease *worker.Lease) {
	f.T.Helper()
	repairing := f.newProcess().recovery
	lease, err := worker.AcquireLease(f.Ctx, f.Postgres, repairing.leaseName())
	must(f.T, err)
	f.T.Cleanup(lease.Release)
	c, _, err := repairing.compare(f.Ctx, lease.Conn)
	if !needsOperator(err) {
		f.T.Fatalf("compare: got error %v, want one that needs an operator", err)
	}
	restore, err := repairing.newRestorer(f.Ctx, lease, func(RestoreProgress) {})
	must(f.T, err)
	r = &repairer{restorer: restore, c: c}
	must(f.T, errorOf(r.closeLog(f.Ctx, c.head.Epoch, "")))
	return r, lease
}

// keepRedis takes the steps 2 and 3 of a repair.
func (r *repairer) keepRedis(ctx context.Context, metaKey string) error {
	facts, err := r.prepare(ctx, RepairOptions{
		Keep: SideRedis,
		Save: func(write func(io.Writer) error) error { return write(io.Discard) },
	}, metaKey)
	if err != nil {
		return err
	}
	return r.decide(ctx, facts)
}

// TestRepairThatDiesIsUndone ends a repair before its decision was recorded. The next
// look of another process must open the log as it was.
func TestRepairThatDiesIsUndone(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events")
	before := f.Dump()
	_, lease := f.beginRepair()
	lease.Release()
	wantError(t, "reconcile", f.reconcile(f.process), ErrStreamGap)
	f.WantUnchanged(t, before)
	f.mustRepair(SideRedis)
	f.WantStock(t, "coat", 9)
}

// TestRepairThatDiesIsCompleted ends a repair after its decision was recorded, at each
// further step. The next look of another process must complete it, although the journal's
// worker runs and the stream has later events of the discarded log.
func TestRepairThatDiesIsCompleted(t *testing.T) {
	t.Parallel()
	killed := errors.New("killed")
	dieAt := func(step string, f *lostEvents, r *repairer) error {
		ctx, cancel := context.WithCancelCause(f.Ctx)
		r.report = func(p RestoreProgress) {
			if p.Step == step {
				cancel(killed)
			}
		}
		return r.restoreDiscarded(ctx)
	}
	tests := map[string]func(f *lostEvents, r *repairer) error{
		"after the decision": func(*lostEvents, *repairer) error { return killed },
		"while keys are removed": func(f *lostEvents, r *repairer) error {
			return dieAt(StepRemove, f, r)
		},
		"while keys are written": func(f *lostEvents, r *repairer) error {
			return dieAt(StepWrite, f, r)
		},
		"before the log is opened": func(f *lostEvents, r *repairer) error {
			return dieAt(StepPublish, f, r)
		},
		"as Redis restarts": func(f *lostEvents, r *repairer) error {
			r.report = func(p RestoreProgress) {
				if p.Step == StepPublish {
					f.restart()
				}
			}
			return r.restoreDiscarded(f.Ctx)
		},
		"after the log was opened": func(f *lostEvents, r *repairer) error {
			must(f.T, r.restoreDiscarded(f.Ctx))
			f.execute(`UPDATE pools SET discarded_epoch = epoch - 1`) // as if it had not been cleared
			return killed
		},
		"after the log was opened, and Redis restarts": func(f *lostEvents, r *repairer) error {
			must(f.T, r.restoreDiscarded(f.Ctx))
			f.execute(`UPDATE pools SET discarded_epoch = epoch - 1`)
			f.restart()
			return killed
		},
	}
	for name, die := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLostEvents(t)
			f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 1) // keeps seq 12, the adjustment
			r, lease := f.beginRepair()
			must(t, r.keepRedis(f.Ctx, f.Pool.ClosedMetaKey()))
			stopJournal := f.RunJournal()
			if err := die(f, r); err == nil {
				t.Fatal("the repair was not interrupted")
			}
			lease.Release()
			f.watch(f.process)
			f.awaitReady(f.process)
			f.WantStock(t, "shirt", 15)
			f.WantStock(t, "coat", 9)
			f.createHold("coat", 1)
			f.AwaitJournaled()
			stopJournal()
			conn := testenv.Connect(t, f.Postgres)
			testenv.Eventually(t, compareTimeout, func() (bool, string) {
				record, err := journal.ReadPoolRecord(f.Ctx, conn, f.Pool.Name())
				return err == nil && record.DiscardedEpoch == 0, fmt.Sprint(record, err)
			})
		})
	}
}

// TestRepairIsUndoneIfNothingCanBeSaved checks that a repair whose file cannot be written
// changes nothing.
func TestRepairIsUndoneIfNothingCanBeSaved(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events")
	before := f.Dump()
	full := errors.New("the disk is full")
	_, err := f.newProcess().recovery.Repair(f.Ctx, RepairOptions{
		Keep: SideJournal,
		Wait: compareTimeout,
		Save: func(func(io.Writer) error) error { return full },
	})
	wantError(t, "repair", err, full)
	f.WantUnchanged(t, before)
	wantError(t, "reconcile", f.reconcile(f.process), ErrStreamGap)
}

// TestHoldThatRedisLacksIsCancelled checks that a hold is recorded as cancelled if it is
// active in the journal and missing in Redis, and that Redis's stock counts.
func TestHoldThatRedisLacksIsCancelled(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events", "hold:"+f.holdWithTTL, "idem:"+f.reservedWithTTL.IdempotencyKey)
	f.RedisCommand("ZREM", "holds:due", f.holdWithTTL)
	done, _ := f.mustRepair(SideRedis)
	if got, want := done.Facts.Missing, (HoldCount{Holds: 1, Units: 1}); got != want {
		t.Errorf("missing: got %+v, want %+v", got, want)
	}
	f.WantStock(t, "coat", 9)
	_, err := f.Confirm(f.Ctx, commands.Confirm{HoldID: f.holdWithTTL, PaymentRef: "p"})
	wantError(t, "confirm", err, commands.ErrHoldCancelled)
}

// TestDamagedHoldStaysAsInTheJournal checks that a hold whose key has a typo is left out
// of the facts, and is live again after the repair.
func TestDamagedHoldStaysAsInTheJournal(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events")
	f.RedisCommand("HSET", "hold:"+f.holdWithTTL, "qty", "one")
	f.RedisCommand("SET", "stock:coat", "1e3")
	done, _ := f.mustRepair(SideRedis)
	want := []string{"hold:" + f.holdWithTTL, "stock:coat"}
	if got := slices.Sorted(slices.Values(done.Facts.Invalid)); !slices.Equal(got, want) {
		t.Errorf("invalid keys: got %v, want %v", got, want)
	}
	f.WantStock(t, "coat", 9)
	must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: f.holdWithTTL, PaymentRef: "p"})))
}

// TestHoldThatEndedInTheJournalStaysEnded checks that a repair of a fork at the newest
// seq keeps Redis, except for a hold that ended in the journal.
func TestHoldThatEndedInTheJournalStaysEnded(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.execute(`UPDATE events SET event_id = gen_random_uuid() WHERE seq = 9`)
	f.RedisCommand("HSET", "hold:"+f.cancelledHold, "state", "CONFIRMED", "payment_ref", "p")
	wantError(t, "reconcile", f.reconcile(f.process), ErrForked)
	done, _ := f.mustRepair(SideRedis)
	if got, want := done.Facts.Conflicting, (HoldCount{Holds: 1, Units: 3}); got != want {
		t.Errorf("conflicting: got %+v, want %+v", got, want)
	}
	_, err := f.Confirm(f.Ctx, commands.Confirm{HoldID: f.cancelledHold, PaymentRef: "p"})
	wantError(t, "confirm", err, commands.ErrHoldCancelled)
	f.WantStock(t, "shirt", 16)
}

// TestRepairReadsOneRedis checks that a repair decides nothing if Redis restarts while
// its keys are read.
func TestRepairReadsOneRedis(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events")
	r, _ := f.beginRepair()
	f.restart()
	wantError(t, "look", r.look(f.Ctx, f.Pool.ClosedMetaKey()), errOtherServer)
}

// TestCommandDuringTheLookIsNoticed checks that a look fails if Redis's log has changed
// since the comparison.
func TestCommandDuringTheLookIsNoticed(t *testing.T) {
	t.Parallel()
	f := newLostEvents(t)
	f.RedisCommand("DEL", "inventory.events")
	r, _ := f.beginRepair()
	f.RedisCommand("HINCRBY", "inventory.meta.closed", "seq", 1)
	wantError(t, "look", r.look(f.Ctx, f.Pool.ClosedMetaKey()), errChanged)
}

func errorOfRepair(_ Repair, _ string, err error) error { return err }

// TestStockFactsNeverLeaveNegativeStock checks the adjustments beside the changes of
// holds: they lead to Redis's stock, and never below zero in between.
func TestStockFactsNeverLeaveNegativeStock(t *testing.T) {
	t.Parallel()
	created := func(qty int64) fact { return fact{event: &events.HoldCreated{Qty: qty}} }
	cancelled := func(qty int64) fact { return fact{event: &events.HoldCancelled{Qty: qty}} }
	tests := []struct {
		name          string
		before, after int64
		known         bool
		changes       []fact
		want          int // events
	}{
		{
			name:   "level",
			before: 5,
			after:  5,
			known:  true,
		},
		{
			name: "unknown and empty",
			want: 1,
		},
		{
			name:   "units added",
			before: 5,
			after:  9,
			known:  true,
			want:   1,
		},
		{
			name:   "units removed",
			before: 5,
			after:  1,
			known:  true,
			want:   1,
		},
		{
			name:    "held",
			before:  5,
			after:   3,
			known:   true,
			changes: []fact{created(2)},
			want:    1,
		},
		{
			name:    "held of units that the journal lacks",
			after:   1,
			changes: []fact{created(2)},
			want:    2,
		},
		{
			name:    "held and returned of units that were removed later",
			known:   true,
			changes: []fact{created(2), cancelled(2)},
			want:    4,
		},
		{
			name:    "returned and removed",
			before:  1,
			known:   true,
			changes: []fact{cancelled(3)},
			want:    2,
		},
	}
	for _, test := range tests {
		facts := stockFacts("shirt", test.before, test.after, test.known, test.changes, 1)
		level := test.before
		for _, f := range facts {
			level += unitsOf(f.event)
			if adjusted, ok := f.event.(*events.StockAdjusted); ok {
				level += adjusted.Delta
			}
			if level < 0 {
				t.Errorf("%s: got a stock of %d units in between, want at least 0", test.name, level)
			}
		}
		if level != test.after {
			t.Errorf("%s: got %d units in the end, want %d", test.name, level, test.after)
		}
		if len(facts) != test.want {
			t.Errorf("%s: got %d events, want %d", test.name, len(facts), test.want)
		}
	}
}

// TestTrimmedStreamIsNoGapIfTheJournalHasTheEvents checks that a pool stays open if the
// journal took events after it was read, and they were trimmed before the stream was
// read.
func TestTrimmedStreamIsNoGapIfTheJournalHasTheEvents(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	conn := testenv.Connect(t, f.Postgres)
	early := comparison{journal: journal.PoolRecord{Journaled: 4}}
	f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 2)
	must(t, f.recovery.checkJournalFollows(f.Ctx, conn, early, 9))
}
