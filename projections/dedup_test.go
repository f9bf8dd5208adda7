package projections

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestHoleStopsProjection checks that a projection stops at a missing event, and that its
// status reports the hole.
func TestHoleStopsProjection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(created("a", 1), created("b", 1), created("c", 1))
	f.exec(`DELETE FROM events WHERE seq = 2`)
	workers, _ := f.run(0, f.notes(neverFails))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := workers[0].Status()
		return strings.Contains(status.Error, journal.ErrHole.Error()), fmt.Sprintf("%+v", status)
	})
	seq, err := worker.ReadCheckpoint(f.ctx, f.db, "notes", "main")
	if err != nil {
		t.Error(err)
	}
	if seq > 1 {
		t.Errorf("got checkpoint %d, want 1 or less, before the hole", seq)
	}
}

// TestDetachedPartitionStopsProjection checks that a projection stops if it needs events
// of a detached partition, that its status names the command that attaches the partition,
// and that the projection continues after that.
func TestDetachedPartitionStopsProjection(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.exec(`DROP TABLE events_1`)
	f.exec(`CREATE TABLE events_1 PARTITION OF events_main FOR VALUES FROM (1) TO (3)`)
	f.exec(`CREATE TABLE events_3 PARTITION OF events_main FOR VALUES FROM (3) TO (101)`)
	f.journal(created("a", 1), created("b", 1), created("c", 1))
	stream := journal.ReaderPosition{Name: "stream", Pool: "main", Seq: 3}
	partition := journal.Partition{
		Pool:  "main",
		Name:  "events_1",
		First: 1,
		Last:  2,
	}
	if _, err := journal.DetachPartition(f.ctx, f.db, partition, stream); err != nil {
		t.Fatal(err)
	}
	workers, _ := f.run(0, f.notes(neverFails))
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := workers[0].Status()
		return strings.Contains(status.Error, "stockstream journal attach events_1"), fmt.Sprintf("%+v",
			status)
	})
	f.wantRows("notes", "")
	if _, err := journal.AttachPartition(f.ctx, f.db, "events_1"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		seq, err := worker.ReadCheckpoint(f.ctx, f.db, "notes", "main")
		return seq == 3, fmt.Sprintf("notes is at %d (%v)", seq, err)
	})
}

// TestEventsAfterTrimsDuplicatesAndFindsHoles checks the part of a batch that is new.
func TestEventsAfterTrimsDuplicatesAndFindsHoles(t *testing.T) {
	t.Parallel()
	batch := func(seqs ...int64) (list []events.Envelope) {
		for _, seq := range seqs {
			list = append(list, events.Envelope{Seq: seq})
		}
		return list
	}
	tests := []struct {
		checkpoint int64
		batch      []events.Envelope
		fresh      int
		hole       bool
	}{
		{0, batch(1, 2, 3), 3, false},
		{2, batch(1, 2, 3), 1, false},
		{3, batch(1, 2, 3), 0, false},
		{9, batch(1, 2, 3), 0, false},
		{0, nil, 0, false},
		{0, batch(2, 3), 0, true},
		{1, batch(2, 4), 0, true},
	}
	for _, test := range tests {
		fresh, err := eventsAfter(test.checkpoint, test.batch)
		if hole := errors.Is(err, journal.ErrHole); hole != test.hole {
			t.Errorf("after %d of %v: got error %v, want ErrHole: %t",
				test.checkpoint, test.batch, err, test.hole)
		}
		if err == nil && len(fresh) != test.fresh {
			t.Errorf("after %d of %v: got %v, want %d events", test.checkpoint, test.batch, fresh, test.fresh)
		}
	}
}

// TestCheckpointMovedBackIsFenced checks that a batch is refused with ErrFenced, and not
// as a hole in the journal, if the checkpoint was moved back since the worker left it.
func TestCheckpointMovedBackIsFenced(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	projection := f.notes(neverFails)
	if err := CreateTables(f.ctx, f.db, projection); err != nil {
		t.Fatal(err)
	}
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('notes', 'main', 3)`)
	msg := message.NewMessage("", nil)
	msg.SetContext(f.ctx)
	next := func(*message.Message) ([]*message.Message, error) { panic("the batch was applied") }
	batch := &journal.Batch{
		Pool:   "main",
		After:  5,
		Events: []events.Envelope{{Pool: "main", Seq: 6}},
	}
	err := applyFresh(msg, f.db, projection, batch, next)
	if !errors.Is(err, worker.ErrFenced) {
		t.Errorf("got error %v, want ErrFenced", err)
	}
	if errors.Is(err, journal.ErrHole) {
		t.Errorf("got error %v, want no ErrHole", err)
	}
}
