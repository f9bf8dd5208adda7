package recovery

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
)

// unsaved are the settings of a Redis that keeps nothing but what it is told to save.
var unsaved = []string{"--appendonly", "no", "--save", ""}

// restart kills Redis and has it come back with what it saved last.
func (s *shop) restart() {
	s.t.Helper()
	if err := s.server.Kill(); err != nil {
		s.t.Errorf("kill Redis: %v", err)
	}
	if err := s.server.Start(s.ctx); err != nil {
		s.t.Errorf("start Redis: %v", err)
	}
}

// onMessage is a log that calls a function with every message.
type onMessage func(text string)

func (f onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (f onMessage) WithAttrs([]slog.Attr) slog.Handler       { return f }
func (f onMessage) WithGroup(string) slog.Handler            { return f }
func (f onMessage) Handle(_ context.Context, record slog.Record) error {
	f(record.Message)
	return nil
}

// TestRestartWhileRestored has Redis come back, at several steps of being restored, with the right to write and without
// what was written since. The pool opens when all of it was written again, and not before.
func TestRestartWhileRestored(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepWrite, StepPublish} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t, unsaved...)
			b.typed("FLUSHALL")
			service := b.anotherService()
			var saved, restarted sync.Once
			log := slog.New(onMessage(func(text string) {
				switch text {
				case "restoring Redis: " + StepRemove:
					saved.Do(func() { b.typed("SAVE") })
				case "restoring Redis: " + step:
					restarted.Do(b.restart)
				}
			}))
			ctx, cancel := context.WithCancel(b.ctx)
			var keeper sync.WaitGroup
			keeper.Go(func() { service.KeepOpening(ctx, b.postgres, log) })
			defer keeper.Wait()
			defer cancel()
			b.awaitReady(service)
			b.wantAsBefore(t, service)
			b.wantGoesOn(t, service, 3) // restored twice
		})
	}
}

// TestAnotherServer holds that a restorer writes no more, and opens nothing, once Redis may have lost what it wrote, and
// that it says so in a way that makes its caller start over.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	losses := map[string]func(b *busyShop){
		"restarted": func(b *busyShop) {
			b.typed("SAVE")
			b.restart()
		},
		"a replica for a while": func(b *busyShop) {
			b.typed("REPLICAOF", "127.0.0.1", "1")
			b.typed("REPLICAOF", "NO", "ONE")
		},
	}
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openBusyShop(t, unsaved...)
			b.typed("FLUSHALL")
			r, writer := b.begun(t)
			must(t, writer.write(b.ctx, r.fold, func(int) {}))
			lose(b)
			before := b.dump()
			for what, err := range map[string]error{
				"write": writer.write(b.ctx, r.fold, func(int) {}), "remove": writer.remove(b.ctx, func(int64) {}),
				"trim": writer.forget(b.ctx, "9999999999999-0"), "publish": r.publish(b.ctx, writer),
			} {
				if !errors.Is(err, errChanged) {
					t.Errorf("%s: got %v, want errChanged", what, err)
				}
			}
			b.wantUnchanged(t, before)
			must(t, b.Open(b.ctx, b.postgres))
			b.wantAsBefore(t, b.Service)
		})
	}
}
