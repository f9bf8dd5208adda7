package journal

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// TestDiscardedLogIsNotJournaled checks that the journal takes no event of a log that was
// discarded, although its seq follows the recorded fact and its batch was read later, and
// that the journal goes on once Redis was restored.
func TestDiscardedLogIsNotJournaled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(6)
	entries := f.streamEntries()
	noop := func() {}
	if err := f.appendBatch(entries[:3], 1, noop); err != nil {
		t.Fatal(err)
	}
	fact := entries[3].Envelope
	fact.EventID = uuid.Must(uuid.NewV7())
	log := slog.New(slog.DiscardHandler)
	raise := Raise{Above: 1, Server: "a"}
	err := DiscardLog(f.ctx, f.db, events.MainPool, raise, 3, []events.Envelope{fact}, log)
	if err != nil {
		t.Fatal(err)
	}
	f.awaitJournal(4)
	if err := f.appendBatch(entries[4:], 2, noop); !errors.Is(err, worker.ErrFenced) {
		t.Errorf("batch of the discarded log: got %v, want ErrFenced", err)
	}
	w, _ := f.runJournal(0)
	f.awaitFault(w, errDiscarded.Error())
	f.awaitJournal(4)

	for _, entry := range entries[:4] { // a restore removes all entries
		f.redis.XDel(f.ctx, f.pool.StreamKey(), entry.StreamID)
	}
	if err := ClearDiscarded(f.ctx, f.db, "main"); err != nil {
		t.Fatal(err)
	}
	f.awaitJournal(6)
}

// TestLogIsNotDiscardedIfTheJournalHasGrown checks that nothing is recorded if the
// journal has taken events since the comparison.
func TestLogIsNotDiscardedIfTheJournalHasGrown(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(2)
	if err := f.appendBatch(f.streamEntries(), 1, func() {}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	err := DiscardLog(f.ctx, f.db, events.MainPool, Raise{Above: 1, Server: "a"}, 1, nil, log)
	if !errors.Is(err, ErrGrown) {
		t.Errorf("discard the log: got %v, want ErrGrown", err)
	}
	record, err := ReadPoolRecord(f.ctx, f.db, "main")
	if err != nil {
		t.Fatal(err)
	}
	if record.DiscardedEpoch != 0 || record.Epoch != 0 {
		t.Errorf("record of the pool: got %+v, want none", record)
	}
}
