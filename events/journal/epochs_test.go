package journal

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// journalBatch has the journal handle a batch of the stream's entries, as one that was read in a given epoch.
func (p *plant) journalBatch(entries []events.Entry, epoch int64, beforeCommit func()) error {
	conn := p.connect()
	return pgx.BeginFunc(p.ctx, conn, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(p.ctx, tx, CheckpointName, "main")
		if err != nil {
			return err
		}
		var fresh []events.Envelope
		for _, entry := range entries {
			fresh = append(fresh, entry.Envelope)
		}
		j := &Writer{Log: slog.New(slog.DiscardHandler)}
		if err := j.append(p.ctx, tx, &StreamBatch{Pool: events.MainPool, Epoch: epoch}, checkpoint, fresh); err != nil {
			return err
		}
		beforeCommit()
		return nil
	})
}

func (p *plant) entries() []events.Entry {
	p.t.Helper()
	found, err := p.redis.XRange(p.ctx, events.MainPool.StreamKey(), "-", "+").Result()
	if err != nil {
		p.t.Fatal(err)
	}
	return stream.ParseEntries(events.MainPool, found)
}

// TestRaisedEpochFencesTheJournal holds that what was read of a log's earlier life is not written once its epoch was
// raised, and that what was being written just then comes wholly before it.
func TestRaisedEpochFencesTheJournal(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(6)
	entries := p.entries()
	if err := p.journalBatch(entries[:2], 1, func() {}); err != nil { // a pool that Postgres does not know yet
		t.Fatal(err)
	}
	var raising sync.WaitGroup
	var epoch, journaled int64
	var raiseErr error
	raiser := p.connect()
	err := p.journalBatch(entries[2:4], 1, func() {
		raising.Go(func() { epoch, journaled, raiseErr = RaiseEpoch(p.ctx, raiser, "main", 4) })
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			var waits bool
			err := p.db.QueryRow(p.ctx, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')`, raiser.PgConn().PID()).Scan(&waits)
			return err == nil && waits, "the raise does not wait for the batch"
		})
	})
	raising.Wait()
	if err != nil || raiseErr != nil || epoch != 5 || journaled != 4 {
		t.Fatalf("batch: %v; raised to %d at seq %d (%v), want 5 at 4", err, epoch, journaled, raiseErr)
	}
	if err := p.journalBatch(entries[4:], 1, func() {}); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("a batch of an earlier life: got %v, want ErrFenced", err)
	}
	p.awaitJournal(4)
	if err := p.journalBatch(entries[4:], 5, func() {}); err != nil {
		t.Errorf("a batch of this life: %v", err)
	}
	p.awaitJournal(6)
}

// TestRaisedEpochIsAboveBoth holds that a raised epoch is above the one that is recorded and above the given one, whichever
// is higher.
func TestRaisedEpochIsAboveBoth(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	if err := RecordPool(p.ctx, p.db, "main", 3); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ above, want int64 }{{1, 4}, {4, 5}, {9, 10}, {9, 11}} {
		if epoch, _, err := RaiseEpoch(p.ctx, p.db, "main", step.above); err != nil || epoch != step.want {
			t.Errorf("above %d: got %d (%v), want %d", step.above, epoch, err, step.want)
		}
	}
}

// TestRunningJournalFollowsTheEpoch holds that a journal which runs while the epoch is raised goes on by itself.
func TestRunningJournalFollowsTheEpoch(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(3)
	p.journal(0)
	p.awaitJournal(3)
	for want := int64(2); want < 4; want++ {
		if epoch, journaled, err := RaiseEpoch(p.ctx, p.db, "main", 1); err != nil || epoch != want || journaled != p.seq {
			t.Fatalf("raised to %d at %d (%v), want %d at %d", epoch, journaled, err, want, p.seq)
		}
		p.append(3)
		p.awaitJournal(p.seq)
	}
	p.awaitAcknowledged()
}

// TestEmptiedStream holds that the journal makes its group anew when Redis was emptied, and goes on by itself.
func TestEmptiedStream(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.append(3)
	p.journal(0)
	p.awaitJournal(3)
	if err := p.redis.FlushAll(p.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	p.append(3)
	p.awaitJournal(6)
	p.awaitAcknowledged()
}

// TestAgreement holds how entries of the stream are found, and compared with the journal's events.
func TestAgreement(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	if seq, err := stream.Tail(p.ctx, p.redis, events.MainPool); seq != 0 || err != nil {
		t.Errorf("tail of nothing: got %d (%v)", seq, err)
	}
	p.append(2500)
	for range 100 {
		p.raw(map[string]any{"hello": "world"})
	}
	p.journal(0)
	p.awaitJournal(2500)
	if seq, err := stream.Tail(p.ctx, p.redis, events.MainPool); seq != 2500 || err != nil {
		t.Errorf("tail: got %d (%v), want 2500", seq, err)
	}
	entries := p.entries()
	for _, seq := range []int64{1, 1000, 2500} {
		id, found, err := stream.FindEntry(p.ctx, p.redis, events.MainPool, seq, 0)
		if !found || err != nil || id != entries[seq-1].Envelope.EventID {
			t.Errorf("find seq %d: got %s %t (%v)", seq, id, found, err)
		}
	}
	for _, most := range []int64{0, 1} {
		if _, found, err := stream.FindEntry(p.ctx, p.redis, events.MainPool, 2501-most*2500, most); found || err != nil {
			t.Errorf("found what is not there, or too far away (%v)", err)
		}
	}
	last, err := CompareStream(p.ctx, p.redis, p.db, events.MainPool, 2400)
	if err != nil || last != entries[2399].StreamID {
		t.Errorf("compare: got %s (%v), want %s", last, err, entries[2399].StreamID)
	}
	if _, err := p.db.Exec(p.ctx, `UPDATE events SET event_id = gen_random_uuid() WHERE seq = 2300`); err != nil {
		t.Fatal(err)
	}
	if _, err := CompareStream(p.ctx, p.redis, p.db, events.MainPool, 2400); !errors.Is(err, ErrFork) {
		t.Errorf("compare: got %v, want ErrFork", err)
	}
	if _, err := CompareStream(p.ctx, p.redis, p.db, events.MainPool, 2299); err != nil {
		t.Errorf("compare up to before it: %v", err)
	}
}
