package journal

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// appendBatch appends entries to the journal as the Writer does for a batch that was read
// in the given epoch.
func (f *fixture) appendBatch(entries []events.Entry, epoch int64, beforeCommit func()) error {
	conn := f.connect()
	return pgx.BeginFunc(f.ctx, conn, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(f.ctx, tx, CheckpointName, "main")
		if err != nil {
			return err
		}
		var fresh []events.Envelope
		for _, entry := range entries {
			fresh = append(fresh, entry.Envelope)
		}
		writer := &Writer{Log: slog.New(slog.DiscardHandler)}
		batch := &StreamBatch{Pool: events.MainPool, Epoch: epoch}
		if err := writer.append(f.ctx, tx, batch, checkpoint, fresh); err != nil {
			return err
		}
		beforeCommit()
		return nil
	})
}

// isBlocked asks whether the session with a process id waits for a lock.
const isBlocked = `
	SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')`

// raiseEpoch calls RaiseEpoch and checks its results.
func (f *fixture) raiseEpoch(conn *pgx.Conn, above, wantEpoch, wantJournaled int64) {
	f.t.Helper()
	epoch, journaled, err := RaiseEpoch(f.ctx, conn, "main", Raise{Above: above})
	if err != nil {
		f.t.Errorf("raise the epoch above %d: %v", above, err)
	}
	if epoch != wantEpoch {
		f.t.Errorf("raise the epoch above %d: got epoch %d, want %d", above, epoch, wantEpoch)
	}
	if journaled != wantJournaled {
		f.t.Errorf("raise the epoch above %d: got the journal's end %d, want %d",
			above, journaled, wantJournaled)
	}
}

// TestBatchOfAnOlderEpochIsFenced checks that a batch that was read before the epoch was
// raised is not written after it, and that RaiseEpoch waits for a batch that is being
// written at that moment.
func TestBatchOfAnOlderEpochIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(6)
	entries := f.streamEntries()
	noop := func() {}
	// Postgres has no record of the pool yet, so its epoch counts as FirstEpoch.
	if err := f.appendBatch(entries[:2], 1, noop); err != nil {
		t.Fatal(err)
	}
	var raise sync.WaitGroup
	raiser := f.connect()
	err := f.appendBatch(entries[2:4], 1, func() {
		raise.Go(func() { f.raiseEpoch(raiser, 4, 5, 4) })
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			var blocked bool
			err := f.db.QueryRow(f.ctx, isBlocked, raiser.PgConn().PID()).Scan(&blocked)
			return err == nil && blocked, "RaiseEpoch does not wait for the open batch"
		})
	})
	raise.Wait()
	if err != nil {
		t.Fatalf("batch that was open while the epoch was raised: got %v, want it written", err)
	}
	if err := f.appendBatch(entries[4:], 1, noop); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("batch of epoch 1: got %v, want ErrFenced", err)
	}
	f.awaitJournal(4)
	if err := f.appendBatch(entries[4:], 5, noop); err != nil {
		t.Errorf("batch of epoch 5: got %v, want it written", err)
	}
	f.awaitJournal(6)
}

// TestRaisedEpochIsAboveTheRecordedAndTheGiven checks that a raised epoch is above both
// the recorded epoch and the given one.
func TestRaisedEpochIsAboveTheRecordedAndTheGiven(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if err := RecordPool(f.ctx, f.db, "main", 3); err != nil {
		t.Fatal(err)
	}
	f.raiseEpoch(f.db, 1, 4, 0)
	f.raiseEpoch(f.db, 4, 5, 0)
	f.raiseEpoch(f.db, 9, 10, 0)
	f.raiseEpoch(f.db, 9, 11, 0)
}

// TestRunningJournalContinuesInARaisedEpoch checks that a journal that runs while the
// epoch is raised continues by itself.
func TestRunningJournalContinuesInARaisedEpoch(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	f.runJournal(0)
	f.awaitJournal(3)
	for epoch := int64(2); epoch < 4; epoch++ {
		f.raiseEpoch(f.db, 1, epoch, f.seq)
		f.appendEvents(3)
		f.awaitJournal(f.seq)
	}
	f.awaitAcknowledged()
}

// TestJournalContinuesOnAnEmptiedRedis checks that a running journal creates its group
// again after Redis was emptied, and continues by itself.
func TestJournalContinuesOnAnEmptiedRedis(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	f.runJournal(0)
	f.awaitJournal(3)
	if err := f.redis.FlushAll(f.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(3)
	f.awaitJournal(6)
	f.awaitAcknowledged()
}
