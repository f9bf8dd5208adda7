package commands_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/internal/testenv"
)

// TestRestoredRedisBehavesAsBefore runs random commands, empties Redis, has it restored
// from the journal, and runs more random commands. It checks that the restored Redis has
// the contents it had, and that every later outcome is the one that the model predicts.
// The model is not told of the restore.
func TestRestoredRedisBehavesAsBefore(t *testing.T) {
	t.Parallel()
	f := commands.ClosedFixture(t)
	watchUntilReady(f)
	rapid.Check(t, func(rt *rapid.T) {
		// A restore takes long, so only every sixth run does one.
		if rapid.IntRange(1, 6).Draw(rt, "one run in six") != 6 {
			return
		}
		machine := commands.NewMachine(f)
		actions := machine.Actions()
		delete(actions, "due") // a deadline changed by hand is not an event, so no restore brings it back
		delete(actions, "expire")

		rt.Repeat(actions)
		machine.RecordExternalChanges(rt)
		f.JournalEverything()
		before := f.Contents()
		f.RedisCommand("FLUSHALL")
		watchUntilReady(f)
		f.WantContents(rt, before)
		rt.Repeat(actions)
		machine.RecordExternalChanges(rt) // otherwise the next run's restore would undo them
	})
}

// watchUntilReady runs the recovery's watcher until the service takes commands.
func watchUntilReady(f *commands.Fixture) {
	f.T.Helper()
	watched := recovery.New(recovery.Config{
		Pool:       f.Pool,
		Redis:      f.Operator,
		Postgres:   f.Postgres,
		Gate:       f.Gate(),
		KeepMemory: commands.DefaultConfig().KeepMemory,
		Log:        slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(f.Ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watched.Watch(ctx)
	}()
	defer func() {
		stop()
		<-ended
	}()
	testenv.Eventually(f.T, 20*time.Second, func() (bool, string) {
		err := f.Ready(f.Ctx)
		return err == nil, fmt.Sprintf("the service is not ready: %v", err)
	})
}
