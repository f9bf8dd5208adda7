package recovery

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestWatchRestoresWhileProcessesServe checks that two running processes survive an
// emptied and a rolled-back Redis without a restart: one of them restores it, and
// commands get no answers but NOT_READY and STALE meanwhile.
func TestWatchRestoresWhileProcessesServe(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	idle := f.newProcess()
	f.watch(f.process)
	f.watch(idle)
	f.awaitReady(idle)
	flush := func() { f.RedisCommand("FLUSHALL") }
	for i, lose := range []func(){flush, f.rollBack, flush} {
		lose()
		testenv.Eventually(t, 20*time.Second, func() (bool, string) {
			_, err := f.Reserve(f.Ctx, f.reserved)
			if err != nil && !errors.Is(err, commands.ErrNotReady) && !errors.Is(err, commands.ErrStale) {
				t.Errorf("reserve while Redis is restored: got error %v, want ErrNotReady or ErrStale", err)
			}
			return err == nil, "reserve: " + errorText(err)
		})
		f.awaitReady(f.process)
		f.awaitReady(idle)
		f.wantRestored(t, idle)
		head, err := stream.ReadHead(f.Ctx, f.Operator, f.Pool)
		must(t, err)
		if want := int64(i + 2); head.Epoch != want {
			t.Errorf("after loss %d: got epoch %d, want %d", i, head.Epoch, want)
		}
		if i == 0 {
			f.RunJournal()
			f.refillStream() // rollBack removes entries
		}
	}
	f.wantSalesContinue(t, idle, 4)
}

// refillStream appends the journal's events to the stream, as it had them before Redis
// was emptied.
func (f *populatedFixture) refillStream() {
	f.T.Helper()
	page, err := journal.ReadEvents(f.Ctx, testenv.Connect(f.T, f.Postgres), "main", 0, 100)
	must(f.T, err)
	for _, e := range page {
		f.RedisCommand("XADD", "inventory.events", "*",
			"event_id", e.EventID.String(),
			"type", string(e.Type),
			"payload", string(e.Payload),
			"metadata", "{}",
			"seq", e.Seq,
			"at", e.At.UnixMilli())
	}
}

// TestWatchAcknowledgesTheLogOfIdleProcess checks that a process that decides nothing
// still learns the end of the log, so that it does not sell in a log that comes back
// older.
func TestWatchAcknowledgesTheLogOfIdleProcess(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	idle := f.newProcess()
	f.watch(idle)
	f.awaitReady(idle)
	f.addStock("shirt", 5)
	f.createHold("shirt", 1)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		epoch, seq := idle.Gate().Acknowledged()
		detail := fmt.Sprintf("acknowledged: got epoch %d, seq %d, want epoch 1, seq 2", epoch, seq)
		return epoch == 1 && seq == 2, detail
	})
}

// TestRefusedCommandEndsThePause checks that the watcher compares soon after a command
// found no log, and that a second refusal does not block its command.
func TestRefusedCommandEndsThePause(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	w := &watcher{Recovery: f.recovery}
	f.addStock("shirt", 1)
	f.RedisCommand("FLUSHALL")
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	w.pause(f.Ctx, time.Hour)
	if f.Ctx.Err() != nil {
		t.Error("pause: got the end of the test, want an end at the refusal")
	}
}

// TestWatchClosesTheGateOnFork checks that the gate of a running process closes if its
// pool forks.
func TestWatchClosesTheGateOnFork(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.watch(f.process)
	uncompared := f.newUncomparedProcess()
	last := f.Operator.XRevRangeN(f.Ctx, "inventory.events", "+", "-", 1).Val()[0].ID
	f.RedisCommand("XDEL", "inventory.events", last)
	f.RedisCommand("HSET", "inventory.meta", "seq", 8)
	must(t, errorOf(uncompared.Reserve(f.Ctx, f.newRequest("shirt", 1))))
	must(t, errorOf(uncompared.Reserve(f.Ctx, f.newRequest("shirt", 1))))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		err := f.Ready(f.Ctx)
		return errors.Is(err, ErrForked), "ready: " + errorText(err)
	})
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
}

// causeRefusal has a command refused that finds no log, so that the watcher compares
// soon.
func (f *fixture) causeRefusal(t *testing.T) {
	t.Helper()
	f.RedisCommand("RENAME", f.Pool.MetaKey(), "elsewhere")
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	f.RedisCommand("RENAME", "elsewhere", f.Pool.MetaKey())
}

// TestOpenGateStaysOpenWithoutPostgres checks that a pool takes commands while Postgres
// is down, and that a Redis that was emptied meanwhile is restored when Postgres is back.
func TestOpenGateStaysOpenWithoutPostgres(t *testing.T) {
	t.Parallel()
	f, server := newFixtureWithPostgres(t)
	f.watch(f.process)
	f.awaitReady(f.process)
	f.addStock("shirt", 5)
	f.JournalEverything()
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // each comparison fails, since Postgres does not answer
		f.causeRefusal(t)
		f.createHold("shirt", 1)
		select {
		case <-f.Ctx.Done():
		case <-time.After(compareInterval):
		}
	}
	must(t, f.Ready(f.Ctx))
	f.RedisCommand("FLUSHALL")
	wantError(t, "reserve", errorOf(f.Reserve(f.Ctx, f.newRequest("shirt", 1))), commands.ErrNotReady)
	if err := server.Start(f.Ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitReady(f.process)
	available, err := f.Available(f.Ctx, "shirt")
	must(t, err)
	if available != 5 { // the three holds were never journaled
		t.Errorf("available: got %d, want 5", available)
	}
}

// TestLastingFailureIsLoggedOnce checks that a failure that repeats is logged the first
// time only.
func TestLastingFailureIsLoggedOnce(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	f.execute(`DELETE FROM events WHERE seq = 3`)
	var text strings.Builder
	f.recovery.log = slog.New(slog.NewTextHandler(&text, nil))
	w := &watcher{Recovery: f.recovery}
	defer w.disconnect(f.Ctx)
	for range 3 {
		wantError(t, "look", w.look(f.Ctx), ErrJournalIncomplete)
	}
	if n := strings.Count(text.String(), "level=ERROR"); n != 1 {
		t.Errorf("log: got %d errors, want 1:\n%s", n, text.String())
	}
	if want := "seq 3 is missing"; !strings.Contains(text.String(), want) {
		t.Errorf("log: got no %q in it, want it:\n%s", want, text.String())
	}
}
