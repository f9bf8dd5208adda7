package recovery

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/commandstest"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestClosedGateRefusesEveryCommand checks that nothing is decided before the gate is
// open, that readiness says so, and that reconciling opens it.
func TestClosedGateRefusesEveryCommand(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	before := f.Dump()
	for operation, err := range map[string]error{
		"reserve":   errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))),
		"confirm":   errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: "h", PaymentRef: "p"})),
		"cancel":    errorOf(f.Cancel(f.Ctx, commands.Cancel{HoldID: "h"})),
		"available": errorOf(f.Available(f.Ctx, "shirt")),
		"ready":     f.Ready(f.Ctx),
	} {
		wantError(t, operation, err, commands.ErrNotReady)
	}
	f.WantUnchanged(t, before)
	must(t, f.reconcile(f.process))
	if err := f.Ready(f.Ctx); err != nil {
		t.Errorf("ready with an open gate: got error %v, want none", err)
	}
}

// TestNewPoolIsInitialisedOnce checks that several processes that reconcile a new pool at
// once create one log.
func TestNewPoolIsInitialisedOnce(t *testing.T) {
	t.Parallel()
	f := newClosedFixture(t)
	var group sync.WaitGroup
	for range 5 {
		other := f.newProcess()
		group.Go(func() {
			if err := f.reconcile(other); err != nil {
				t.Errorf("reconcile: %v", err)
			}
		})
	}
	group.Wait()
	meta := f.Operator.HGetAll(f.Ctx, "inventory.meta").Val()
	if len(meta) != 3 {
		t.Errorf("inventory.meta: got %v, want three fields", meta)
	}
	if got := meta["server"]; got != f.ServerID() {
		t.Errorf("inventory.meta: got server %q, want %q", got, f.ServerID())
	}
	if meta["epoch"] != "1" {
		t.Errorf("inventory.meta: got epoch %q, want 1", meta["epoch"])
	}
	if meta["seq"] != "0" {
		t.Errorf("inventory.meta: got seq %q, want 0", meta["seq"])
	}
}

// setJournalCheckpoint makes the journal's checkpoint claim that it reached seq.
func (f *fixture) setJournalCheckpoint(seq int64) {
	f.T.Helper()
	f.execute(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`, seq)
}

// TestReconcileOpensTheGateOnlyIfNoEventIsLost reconciles every difference between Redis
// and the journal that is possible while no journal runs.
func TestReconcileOpensTheGateOnlyIfNoEventIsLost(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		arrange  func(f *fixture)
		want     error
		wantText string // of an error of Redis, which has no value to compare with
	}{
		{
			name:    "both are new",
			arrange: func(*fixture) {},
		},
		{
			name: "both end at the same seq",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.setJournalCheckpoint(1)
			},
		},
		{
			name: "both end with the same event",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.JournalEverything()
			},
		},
		{
			name: "Redis is ahead, and the journal catches up",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.JournalEverything()
				f.addStock("shirt", 1)
			},
		},
		{
			name: "Redis was emptied before the first event was journaled",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.RedisCommand("FLUSHALL")
			},
		},
		{
			name: "Redis was emptied",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.JournalEverything()
				f.RedisCommand("FLUSHALL")
			},
		},
		{
			name: "only the log head was deleted",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.JournalEverything()
				f.RedisCommand("DEL", "inventory.meta")
			},
		},
		{
			name: "the log head has no epoch",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.JournalEverything()
				f.RedisCommand("HDEL", "inventory.meta", "epoch")
			},
		},
		{
			name: "the log head is no hash",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.RedisCommand("SET", "inventory.meta", "x")
			},
			wantText: "WRONGTYPE",
		},
		{
			name: "Redis is behind a journal that lacks the events",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.setJournalCheckpoint(2)
			},
			want: ErrJournalIncomplete,
		},
		{
			name: "the log head was deleted, and the journal is behind the stream",
			arrange: func(f *fixture) {
				f.addStock("shirt", 1)
				f.RedisCommand("DEL", "inventory.meta")
			},
			want: ErrUnjournaled,
		},
		{
			name: "Redis was emptied, and its stream has a foreign entry",
			arrange: func(f *fixture) {
				f.RedisCommand("FLUSHALL")
				f.RedisCommand("XADD", "inventory.events", "*", "hello", "world")
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			test.arrange(f)
			next := f.newProcess()
			err := f.reconcile(next)
			_, reserveErr := next.Reserve(f.Ctx, f.newRequest("shirt", 1))
			readyErr := next.Ready(f.Ctx)
			if test.want == nil && test.wantText == "" {
				if err != nil {
					t.Errorf("reconcile: got error %v, want none", err)
				}
				if errors.Is(reserveErr, commands.ErrNotReady) {
					t.Errorf("reserve: got error %v, want a decision", reserveErr)
				}
				if readyErr != nil {
					t.Errorf("ready: got error %v, want none", readyErr)
				}
				return
			}
			if test.want != nil {
				wantError(t, "reconcile", err, test.want)
				wantError(t, "ready", readyErr, test.want)
			}
			if err == nil || !strings.Contains(errorText(err), test.wantText) {
				t.Errorf("reconcile: got error %v, want %q in it", err, test.wantText)
			}
			wantError(t, "reserve", reserveErr, commands.ErrNotReady)
		})
	}
}

// TestRolledBackRedisRefusesCommands checks that a process does not sell in a Redis that
// is older than a position acknowledged to it, nor in an emptied one, and that readiness
// says so.
func TestRolledBackRedisRefusesCommands(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 5)
	f.createHold("shirt", 1)
	f.RedisCommand("HSET", "inventory.meta", "seq", 1)
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrStale)
	wantError(t, "ready", f.Ready(f.Ctx), commands.ErrStale)

	f.RedisCommand("FLUSHALL")
	err := f.Ready(f.Ctx)
	wantError(t, "ready with an emptied Redis", err, commands.ErrNotReady)
	if want := "Redis was emptied"; !strings.Contains(errorText(err), want) {
		t.Errorf("ready with an emptied Redis: got error %v, want %q in it", err, want)
	}
}

// TestReconcileFailsWithoutSchema checks that no log is created if there is no journal to
// compare with.
func TestReconcileFailsWithoutSchema(t *testing.T) {
	t.Parallel()
	f := &fixture{Store: commandstest.NewStore(t)}
	f.Postgres.RuntimeParams["search_path"] = "pg_temp"
	f.process = f.newProcess()
	if err := f.reconcile(f.process); err == nil {
		t.Error("reconcile: got no error, want one")
	}
	heads, err := f.Operator.Exists(f.Ctx, events.MainPool.MetaKey()).Result()
	must(t, err)
	if heads != 0 {
		t.Error("Redis: got a log head, want none")
	}
}

// TestCompleteLogOfEarlierEpochIsKept checks that a log with every event of the journal
// is kept, in a new epoch, although its epoch is not the newest. A process leaves such a
// log if it dies between raising the epoch and closing the log. It also remains if Redis
// lost events that were acknowledged but not journaled.
func TestCompleteLogOfEarlierEpochIsKept(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *populatedFixture){
		"Postgres has a later epoch": func(f *populatedFixture) {
			must(f.T, journal.RecordPool(f.Ctx, testenv.Connect(f.T, f.Postgres), "main", 7))
		},
		"a later epoch was acknowledged": func(f *populatedFixture) {
			f.Gate().Acknowledge(7, 3)
		},
		"a later seq was acknowledged": func(f *populatedFixture) {
			f.Gate().Acknowledge(1, 99)
			_, err := f.Reserve(f.Ctx, f.newRequest("shirt", 1))
			if !errors.Is(err, commands.ErrStale) {
				f.T.Errorf("reserve: got error %v, want ErrStale", err)
			}
		},
	}
	for name, arrange := range tests {
		for _, ahead := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", Redis ahead ", ahead), func(t *testing.T) {
				t.Parallel()
				f := newPopulatedFixture(t)
				hold := f.activeHold
				if ahead {
					hold = f.createHold("shirt", 2)
					f.contents = f.Contents()
				}
				arrange(f)
				must(t, f.reconcile(f.process))
				f.WantContents(t, f.contents)
				must(t, f.Ready(f.Ctx))
				must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: hold, PaymentRef: "p"})))
				record, err := journal.ReadPoolRecord(f.Ctx, testenv.Connect(t, f.Postgres), "main")
				must(t, err)
				head, err := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
				must(t, err)
				if head.Epoch != record.Epoch {
					t.Errorf("epoch: got %d in Redis, want %d as in Postgres", head.Epoch, record.Epoch)
				}
				if head.Epoch < 2 {
					t.Errorf("epoch: got %d, want a new one", head.Epoch)
				}
				f.JournalEverything()
			})
		}
	}
}

// TestKeepLogRejectsShortenedLog checks that a log that lost an event since it was
// compared gets no new epoch.
func TestKeepLogRejectsShortenedLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 3)
	f.createHold("shirt", 1)
	lease, err := worker.AcquireLease(f.Ctx, f.Postgres, f.recovery.leaseName())
	must(t, err)
	t.Cleanup(lease.Release)
	c, _, err := f.recovery.compare(f.Ctx, lease.Conn)
	must(t, err)
	f.RedisCommand("HINCRBY", f.Pool.MetaKey(), "seq", -1)
	wantError(t, "keep the shortened log", f.recovery.keepLog(f.Ctx, lease, c), errChanged)
	f.RedisCommand("HINCRBY", f.Pool.MetaKey(), "seq", 1)
	if err := f.recovery.keepLog(f.Ctx, lease, c); err != nil {
		t.Errorf("keep the whole log: got error %v, want none", err)
	}
}

// TestTrimmedLogOfEarlierEpochIsRestored checks that a log of an earlier epoch is
// replaced if it ends where the journal does and its stream no longer has the last event:
// it cannot be compared, and no event of it can be lost.
func TestTrimmedLogOfEarlierEpochIsRestored(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	must(t, journal.RecordPool(f.Ctx, testenv.Connect(t, f.Postgres), "main", 2))
	f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 0)
	f.RedisCommand("SET", "stock:shirt", 1)
	must(t, f.reconcile(f.process))
	f.wantRestored(t, f.process)
	f.wantSalesContinue(t, f.process, 3)
}

// TestEpochLostInPostgresIsReadFromRedis checks that a Postgres that no longer has the
// pool's epoch gets it from Redis, so that the next restore does not use an epoch twice.
func TestEpochLostInPostgresIsReadFromRedis(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	must(t, f.reconcile(f.process))
	f.execute(`DELETE FROM pools`)
	must(t, f.reconcile(f.newProcess()))
	f.RedisCommand("FLUSHALL")
	must(t, f.reconcile(f.process))
	f.wantRestored(t, f.process)
	f.wantSalesContinue(t, f.process, 3)
}
