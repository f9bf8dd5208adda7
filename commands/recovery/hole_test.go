package recovery

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
)

// removeEntry removes the newest entry of the stream and returns it.
func (f *fixture) removeEntry() redis.XMessage {
	f.T.Helper()
	entry := f.Operator.XRevRangeN(f.Ctx, "inventory.events", "+", "-", 1).Val()[0]
	f.RedisCommand("XDEL", "inventory.events", entry.ID)
	return entry
}

// putBack appends an entry to the stream as it was.
func (f *fixture) putBack(entry redis.XMessage) {
	f.T.Helper()
	must(f.T, f.Operator.XAdd(f.Ctx, &redis.XAddArgs{Stream: "inventory.events", Values: entry.Values}).Err())
}

// TestHoleClosesThePoolUntilItIsRepaired removes an event from the stream before the
// journal has read it. A process without a journal of its own must stop selling, and sell
// again after the operator repaired the stream.
func TestHoleClosesThePoolUntilItIsRepaired(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 9)
	f.createHold("shirt", 1)
	missing := f.removeEntry()
	f.createHold("shirt", 1)
	f.watch(f.process)
	f.RunJournal()
	f.awaitClosed(f.process, ErrJournalStopped)
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	options := RebuildOptions{EvenHealthy: true, Wait: time.Second}
	wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrJournalStopped)

	later := f.removeEntry()
	f.putBack(missing)
	f.putBack(later)
	f.awaitReady(f.process)
	f.createHold("shirt", 1)
	f.AwaitJournaled()
}

// TestJournalThatIsBehindIsNoHole checks that a pool sells on while the journal lacks
// events that are on the stream.
func TestJournalThatIsBehindIsNoHole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 9)
	f.JournalEverything()
	f.createHold("shirt", 1)
	must(t, f.reconcile(f.process))
	f.createHold("shirt", 1)
}

// TestRestoreRemovesTheFault checks that a pool opens after a restore although the log
// that was replaced had a hole, and no journal runs.
func TestRestoreRemovesTheFault(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addStock("shirt", 9)
	f.createHold("shirt", 1)
	f.removeEntry()
	f.createHold("shirt", 1)
	stop := f.RunJournal()
	f.watch(f.process)
	f.awaitClosed(f.process, ErrJournalStopped)
	stop()
	f.RedisCommand("FLUSHALL")
	f.awaitReady(f.process)
	f.WantStock(t, "shirt", 9)
}
