package journal

import (
	"errors"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// TestCompareStreamFindsAnotherEvent checks that CompareStream compares the stream with
// the journal up to the given seq only, over several pages, and that it fails with
// ErrFork if an event of that range differs.
func TestCompareStreamFindsAnotherEvent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(2500)
	for range 100 {
		f.appendEntry(map[string]any{"hello": "world"})
	}
	f.runJournal(0)
	f.awaitJournal(2500)
	entries := f.streamEntries()
	last, err := CompareStream(f.ctx, f.redis, f.db, events.MainPool, 2400)
	if err != nil {
		t.Errorf("compare up to seq 2400: %v", err)
	}
	if want := entries[2399].StreamID; last != want {
		t.Errorf("last entry compared up to seq 2400: got %s, want %s", last, want)
	}
	f.exec(`UPDATE events SET event_id = gen_random_uuid() WHERE seq = 2300`)
	if _, err := CompareStream(f.ctx, f.redis, f.db, events.MainPool, 2400); !errors.Is(err, ErrFork) {
		t.Errorf("compare up to seq 2400 with another event at 2300: got %v, want ErrFork", err)
	}
	if _, err := CompareStream(f.ctx, f.redis, f.db, events.MainPool, 2299); err != nil {
		t.Errorf("compare up to seq 2299, before the other event: got %v, want no error", err)
	}
}
