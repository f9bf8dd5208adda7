package recovery

import (
	"strings"
	"testing"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestEventsThatJournalLacksAreNotOverwritten checks that a Redis without a log head, but
// with events beyond the journal, is not changed until the journal has all of them, and
// that no event is lost then.
func TestEventsThatJournalLacksAreNotOverwritten(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		lose    func(f *populatedFixture)
		putBack func(f *populatedFixture)
	}{
		"the stream has the event": {
			lose: func(f *populatedFixture) {
				f.RedisCommand("DEL", "inventory.meta")
			},
			putBack: func(*populatedFixture) {},
		},
		"the closed log head of a restore names the event": {
			lose: func(f *populatedFixture) {
				f.RedisCommand("RENAME", "inventory.meta", "inventory.meta.closed")
				f.RedisCommand("HSET", "inventory.meta.next", "epoch", 1, "seq", 9)
			},
			putBack: func(*populatedFixture) {},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			unjournaledHold := f.createHold("shirt", 4)
			f.contents = f.Contents()
			test.lose(f)
			before := f.Dump()
			wantError(t, "reconcile", f.reconcile(f.process), ErrUnjournaled)
			options := RebuildOptions{EvenHealthy: true, Wait: compareTimeout}
			wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrUnjournaled)
			f.WantUnchanged(t, before)

			test.putBack(f)
			f.RunJournal()
			testenv.Eventually(t, compareTimeout, func() (bool, string) {
				err := f.reconcile(f.process)
				return err == nil, "reconcile: " + errorText(err)
			})
			f.WantContents(t, f.contents)
			must(t, errorOf(f.Confirm(f.Ctx, commands.Confirm{HoldID: unjournaledHold, PaymentRef: "p"})))
		})
	}
}

// TestForkClosesPoolUntilOperatorDecides checks that a pool whose Redis and journal have
// different events of one seq takes no commands, that neither log is changed, and that
// the command that the error names makes the journal's log count.
func TestForkClosesPoolUntilOperatorDecides(t *testing.T) {
	t.Parallel()
	sell := func(f *populatedFixture, uncompared *process, times int) {
		for range times {
			must(f.T, errorOf(uncompared.Reserve(f.Ctx, f.newRequest("shirt", 1))))
		}
	}
	tests := map[string]func(f *populatedFixture, uncompared *process){
		"Redis behind the journal": func(f *populatedFixture, uncompared *process) {
			sell(f, uncompared, 1)
		},
		"Redis beyond the journal": func(f *populatedFixture, uncompared *process) {
			sell(f, uncompared, 6)
		},
		"Redis in an earlier epoch, its stream trimmed": func(f *populatedFixture, uncompared *process) {
			sell(f, uncompared, 6)
			conn := testenv.Connect(f.T, f.Postgres)
			must(f.T, journal.RecordPool(f.Ctx, conn, "main", 2))
			f.RedisCommand("XTRIM", "inventory.events", "MAXLEN", 1)
		},
	}
	for name, fork := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t)
			f.rollBack()
			fork(f, f.newUncomparedProcess())
			before := f.Dump()
			err := f.reconcile(f.process)
			wantError(t, "reconcile", err, ErrForked)
			const advice = "stockstream redis repair"
			if !strings.Contains(errorText(err), advice) {
				t.Fatalf("reconcile: got error %v, want the advice %q in it", err, advice)
			}
			err = f.Ready(f.Ctx)
			wantError(t, "ready", err, commands.ErrNotReady)
			wantError(t, "ready", err, ErrForked)
			wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
			options := RebuildOptions{EvenHealthy: true, Wait: compareTimeout}
			wantError(t, "rebuild", errorOf(f.recovery.Rebuild(f.Ctx, options)), ErrForked)
			f.WantUnchanged(t, before)

			_, saved := f.mustRepair(SideJournal)
			f.wantRestored(t, f.process)
			if !strings.Contains(saved, `"from":"stream"`) {
				t.Errorf("saved: got %q, want the entries of Redis's log", saved)
			}
		})
	}
}

// TestRedisBeforeVersion7IsRejected checks that a Redis takes no commands if its version
// is known and too old.
func TestRedisBeforeVersion7IsRejected(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"6.2.14":   true,
		"5":        true,
		"7.0.15":   false,
		"8.2.1":    false,
		"10.0.0":   false,
		"":         false,
		"unstable": false,
	}
	for version, want := range tests {
		err := checkVersion(version)
		if got := err != nil; got != want {
			t.Errorf("version %q: got rejected %t (%v), want %t", version, got, err, want)
		}
	}
	f := newFixture(t)
	server, err := stream.ReadServer(f.Ctx, f.Operator, f.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if server.Version == "" {
		t.Error("the tests' own Redis: got no version")
	}
}
