package projectiontest

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

// TestProcessCrashesAtItsCrashPoint checks that a process crashes in its first batch: the
// batch is committed only if the crash comes after COMMIT. No event is parked.
func TestProcessCrashesAtItsCrashPoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t, healthy)
	f.journal(history(1, 20))
	for crash, want := range map[crashPoint]int64{
		crashAfterWriting: 0,
		crashFailedCommit: 0,
		crashInCommit:     0,
		crashAfterCommit:  15,
	} {
		f.reset()
		if err := f.run(process{projection: f.build(), batchMax: 15, crash: crash}); err != nil {
			t.Fatal(err)
		}
		if got := f.checkpoint(); got != want {
			t.Errorf("crash point %d: got checkpoint %d, want %d", crash, got, want)
		}
		if letter := f.firstLetter(); letter != "" {
			t.Errorf("crash point %d: got dead letter %s, want none", crash, letter)
		}
	}
}

func TestRunReturnsTheErrorOfAWorkerThatStops(t *testing.T) {
	t.Parallel()
	f := newFixture(t, healthy)
	f.journal(history(1, 20))
	f.reset()
	stuck := f.build()
	stuck.Apply = func(context.Context, pgx.Tx, []projections.Event) error { return context.Canceled }
	if err := f.run(process{projection: stuck}); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want the error of Apply", err)
	}
}
