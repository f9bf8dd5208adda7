package recovery

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// unsaved are arguments for a Redis that saves its data only on the command SAVE.
var unsaved = []string{"--appendonly", "no", "--save", ""}

// afterAll is a stream id after every entry.
const afterAll = "9999999999999-0"

// onMessage is a log handler that calls a function with every message.
type onMessage func(text string)

func (f onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (f onMessage) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f onMessage) WithGroup(string) slog.Handler            { return f }
func (f onMessage) Handle(_ context.Context, record slog.Record) error {
	f(record.Message)
	return nil
}

// TestRestartDuringRestoreBeginsAgain restarts Redis during a restore, so that it still
// has inventory.meta.next but lost the keys written after it. It checks that the pool
// opens only after all keys were written again.
func TestRestartDuringRestoreBeginsAgain(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepWrite, StepPublish} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t, unsaved...)
			f.RedisCommand("FLUSHALL")
			var save sync.Once
			var restart sync.Once
			p := f.newProcessWithLog(slog.New(onMessage(func(text string) {
				switch text {
				case "restoring Redis: " + StepRemove:
					save.Do(func() { f.RedisCommand("SAVE") })
				case "restoring Redis: " + step:
					restart.Do(f.restart)
				}
			})))
			f.watch(p)
			f.awaitReady(p)
			f.wantRestored(t, p)
			f.wantSalesContinue(t, p, 3) // restored twice
		})
	}
}

// beginRestore returns a restorer that has the right to write, and its writer. Its lease
// has a name of its own, so it does not exclude others: as if it had lost the real lease
// without noticing.
func (f *populatedFixture) beginRestore() (*restorer, *keyWriter) {
	f.T.Helper()
	lease, err := worker.AcquireLease(f.Ctx, f.Postgres, "lost-lease-"+f.Key())
	must(f.T, err)
	f.T.Cleanup(lease.Release)
	restore, err := f.recovery.newRestorer(f.Ctx, lease, func(RestoreProgress) {})
	must(f.T, err)
	epoch, journaled, err := journal.RaiseEpoch(f.Ctx, lease.Conn, "main", journal.Raise{Above: 1})
	must(f.T, err)
	must(f.T, restore.foldTo(f.Ctx, journaled))
	server, err := stream.ReadServer(f.Ctx, f.Operator, f.Pool)
	must(f.T, err)
	writer, err := restore.beginWriting(f.Ctx, epoch, journaled, server)
	must(f.T, err)
	return restore, writer
}

// writes carries out each kind of a writer's transactions, and returns their errors.
func (f *populatedFixture) writes(s *state, w *keyWriter) map[string]error {
	return map[string]error{
		"write":  w.writeKeys(f.Ctx, s, func(int) {}),
		"remove": w.removeKeys(f.Ctx, s, func(int64) {}),
		"trim":   w.trimStream(f.Ctx, afterAll),
	}
}

// TestRestorerStopsOnAnotherServer checks that a restorer changes nothing once Redis may
// have lost the keys that it wrote, and that its error makes the caller begin again.
func TestRestorerStopsOnAnotherServer(t *testing.T) {
	t.Parallel()
	tests := map[string]func(f *populatedFixture){
		"Redis restarted": func(f *populatedFixture) {
			f.RedisCommand("SAVE")
			f.restart()
		},
		"Redis was a replica for a while": func(f *populatedFixture) {
			f.RedisCommand("REPLICAOF", "127.0.0.1", "1")
			f.RedisCommand("REPLICAOF", "NO", "ONE")
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newPopulatedFixture(t, unsaved...)
			f.RedisCommand("FLUSHALL")
			restore, writer := f.beginRestore()
			must(t, writer.writeKeys(f.Ctx, restore.state, func(int) {}))
			change(f)
			before := f.Dump()
			for operation, err := range f.writes(restore.state, writer) {
				wantError(t, operation, err, errChanged)
			}
			wantError(t, "publish", restore.publish(f.Ctx, writer), errChanged)
			f.WantUnchanged(t, before)
			must(t, f.reconcile(f.process))
			f.wantRestored(t, f.process)
		})
	}
}

// TestSupersededRestorerChangesNothing checks that a restorer that lost its lease without
// noticing changes nothing from the moment in which another one has the right to write.
func TestSupersededRestorerChangesNothing(t *testing.T) {
	t.Parallel()
	f := newPopulatedFixture(t)
	f.RedisCommand("FLUSHALL")
	late, lateWriter := f.beginRestore()
	must(t, lateWriter.writeKeys(f.Ctx, late.state, func(int) {}))
	_, writer := f.beginRestore()
	wantLateRefused := func() {
		t.Helper()
		before := f.Dump()
		for operation, err := range f.writes(late.state, lateWriter) {
			wantError(t, "late "+operation, err, errSuperseded)
		}
		if err := late.publish(f.Ctx, lateWriter); err == nil {
			t.Error("late publish: got no error, want one")
		}
		f.WantUnchanged(t, before)
	}
	wantLateRefused()
	keys := []string{f.Pool.MetaKey(), f.Pool.NextMetaKey()}
	err := f.recovery.runStep(f.Ctx, beginRestoreScript, statusBegun, keys, lateWriter.epoch, 0, "all")
	wantError(t, "late begin", err, errSuperseded)
	must(t, writer.removeKeys(f.Ctx, late.state, func(int64) {}))
	must(t, writer.writeKeys(f.Ctx, late.state, func(int) {}))
	wantLateRefused()
	must(t, late.publish(f.Ctx, writer))
	must(t, late.publish(f.Ctx, writer)) // a repeat, as after a lost reply
	wantLateRefused()
	must(t, f.reconcile(f.process))
	f.wantRestored(t, f.process)
}
