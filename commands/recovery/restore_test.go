package recovery

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TestEmptiedRedisAnswersAsBefore checks that an emptied Redis is restored, and that
// commands are answered as before, by a process that saw the loss and by a new one.
func TestEmptiedRedisAnswersAsBefore(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *populatedFixture) *process{
		"the same process": func(f *populatedFixture) *process { return f.process },
		"another process":  func(f *populatedFixture) *process { return f.newProcess() },
	}
	for name, choose := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			p := choose(f)
			f.RedisCommand("FLUSHALL")
			must(t, f.reconcile(p))
			f.wantRestored(t, p)
			f.wantSalesContinue(t, p, 2)
		})
	}
}

// TestEachRestoreRaisesTheEpoch checks that a log can be restored repeatedly, in a new
// epoch each time.
func TestEachRestoreRaisesTheEpoch(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	for range 3 {
		f.RedisCommand("FLUSHALL")
		must(t, f.reconcile(f.process))
	}
	f.wantRestored(t, f.process)
	f.wantSalesContinue(t, f.process, 4)
}

// TestRolledBackRedisIsRestored checks that a Redis with an older copy of its data is
// restored to the end of the journal, that the journaled events leave its stream, and
// that foreign entries stay there.
func TestRolledBackRedisIsRestored(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *populatedFixture){
		"by the first restorer": func(*populatedFixture) {},
		"after a restorer died that had closed the log": func(f *populatedFixture) {
			f.RedisCommand("RENAME", "inventory.meta", "inventory.meta.closed")
		},
	}
	for name, arrange := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			f.rollBack()
			arrange(f)
			foreign := f.Operator.XAdd(f.Ctx, &redis.XAddArgs{
				Stream: "inventory.events",
				Values: []any{"hello", "world"},
			}).Val()
			must(t, f.reconcile(f.process))
			f.wantRestored(t, f.process)
			entries := f.Operator.XRange(f.Ctx, "inventory.events", "-", "+").Val()
			if len(entries) != 1 || entries[0].ID != foreign {
				t.Errorf("stream: got %v, want only the foreign entry %s", entries, foreign)
			}
			f.wantSalesContinue(t, f.process, 2)
		})
	}
}

// TestClosedLogThatLacksNothingKeepsItsStream checks that a log which an interrupted
// rebuild closed keeps its stream: other consumer groups may not have read it yet.
func TestClosedLogThatLacksNothingKeepsItsStream(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("RENAME", "inventory.meta", "inventory.meta.closed")
	must(t, f.reconcile(f.process))
	f.wantRestored(t, f.process)
	if entries := f.Operator.XLen(f.Ctx, "inventory.events").Val(); entries != 9 {
		t.Errorf("stream: got %d entries, want 9", entries)
	}
	f.wantSalesContinue(t, f.process, 1)
}

// TestOneOfSeveralProcessesRestores checks that processes that reconcile an emptied Redis
// at once restore it once, and that the gates of all of them open.
func TestOneOfSeveralProcessesRestores(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	var group sync.WaitGroup
	for range 4 {
		other := f.newProcess()
		group.Go(func() {
			if err := f.reconcile(other); err != nil {
				t.Errorf("reconcile: %v", err)
			}
		})
	}
	group.Wait()
	must(t, f.reconcile(f.process))
	f.wantRestored(t, f.process)
	f.wantSalesContinue(t, f.process, 2)
}

// TestIncompleteJournalIsNotRestoredFrom checks that Redis is neither rebuilt nor
// restored from a journal that lacks an event, and that no key is changed.
func TestIncompleteJournalIsNotRestoredFrom(t *testing.T) {
	t.Parallel()
	for _, seq := range []int{1, 5, 9} {
		t.Run(fmt.Sprint("without seq ", seq), func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			f.execute(`DELETE FROM events WHERE seq = $1`, seq)
			options := RebuildOptions{EvenHealthy: true, Wait: time.Second}
			wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrJournalIncomplete)
			f.WantContents(t, f.contents)
			must(t, f.Ready(f.Ctx))

			f.RedisCommand("DEL", "inventory.meta", "inventory.events")
			before := f.Dump()
			err := f.reconcile(f.process)
			wantError(t, "reconcile", err, ErrJournalIncomplete)
			if want := fmt.Sprintf("seq %d is missing", seq); !strings.Contains(errorText(err), want) {
				t.Errorf("reconcile: got error %v, want %q in it", err, want)
			}
			f.WantUnchanged(t, before)
		})
	}
}
