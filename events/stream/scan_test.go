package stream

import (
	"slices"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// newScannedStream returns a fixture whose stream has the events 1 to 2500 and 100
// foreign entries after them, and the events' ids in order.
func newScannedStream(t *testing.T) (f *fixture, eventIDs []string) {
	t.Helper()
	f = newFixture(t)
	var entries []map[string]any
	for seq := int64(1); seq <= 2500; seq++ {
		fields := eventFields(seq)
		entries = append(entries, fields)
		eventIDs = append(eventIDs, fields[events.FieldEventID].(string))
	}
	for range 100 {
		entries = append(entries, map[string]any{"hello": "world"})
	}
	f.appendEntries(entries...)
	return f, eventIDs
}

// TestTailIsZeroOfAMissingStream checks that Tail returns 0 if there is no stream.
func TestTailIsZeroOfAMissingStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	seq, err := Tail(f.ctx, f.redis, events.MainPool)
	if err != nil {
		t.Fatal(err)
	}
	if seq != 0 {
		t.Errorf("tail: got seq %d, want 0", seq)
	}
}

// TestTailSkipsForeignEntries checks that Tail returns the seq of the last event although
// foreign entries come after it.
func TestTailSkipsForeignEntries(t *testing.T) {
	t.Parallel()
	f, _ := newScannedStream(t)
	seq, err := Tail(f.ctx, f.redis, events.MainPool)
	if err != nil {
		t.Fatal(err)
	}
	if seq != 2500 {
		t.Errorf("tail: got seq %d, want 2500", seq)
	}
}

// TestFindEntryReturnsTheEventOfASeq checks that FindEntry finds events on every page of
// the stream.
func TestFindEntryReturnsTheEventOfASeq(t *testing.T) {
	t.Parallel()
	f, eventIDs := newScannedStream(t)
	for _, seq := range []int64{1, 1000, 2500} {
		id, found, err := FindEntry(f.ctx, f.redis, events.MainPool, seq, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !found {
			t.Errorf("find seq %d: got no entry, want one", seq)
		}
		if want := eventIDs[seq-1]; id.String() != want {
			t.Errorf("find seq %d: got event %s, want %s", seq, id, want)
		}
	}
}

// TestFindEntryReportsNone checks that FindEntry finds no entry for a seq that is not on
// the stream, nor for one that is further from the end than it may look.
func TestFindEntryReportsNone(t *testing.T) {
	t.Parallel()
	f, _ := newScannedStream(t)
	for name, test := range map[string]struct {
		seq        int64
		entriesMax int64
	}{
		"seq above the last":       {seq: 2501, entriesMax: 0},
		"seq too far from the end": {seq: 1, entriesMax: 1},
	} {
		id, found, err := FindEntry(f.ctx, f.redis, events.MainPool, test.seq, test.entriesMax)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if found {
			t.Errorf("%s: got event %s, want none", name, id)
		}
	}
}

// TestFindGap checks which events count as lost at the beginning and at the end of a
// stream, and that foreign entries neither hide a gap nor make one up.
func TestFindGap(t *testing.T) {
	t.Parallel()
	foreign := map[string]any{"hello": "world"}
	entries := func(fields ...any) (list []map[string]any) {
		for _, field := range fields {
			if seq, ok := field.(int); ok {
				list = append(list, eventFields(int64(seq)))
			} else {
				list = append(list, foreign)
			}
		}
		return list
	}
	many := make([]any, 200)
	tests := map[string]struct {
		stream      []map[string]any
		after, head int64
		first, last int64 // of the gap
	}{
		"level, without a stream": {after: 9, head: 9},
		"complete":                {stream: entries(4, 5, 6), after: 4, head: 6},
		"begins directly after":   {stream: entries(5, 6), after: 4, head: 6},
		"empty": {
			after: 4,
			head:  6,
			first: 5,
			last:  6,
		},
		"begins too late": {
			stream: entries(6, 7),
			after:  4,
			head:   7,
			first:  5,
			last:   5,
		},
		"ends too early": {
			stream: entries(3, 4, 5),
			after:  4,
			head:   7,
			first:  6,
			last:   7,
		},
		"only older entries": {
			stream: entries(2, 3),
			after:  4,
			head:   6,
			first:  5,
			last:   6,
		},
		"foreign entries around": {stream: entries(nil, 5, 6, nil), after: 4, head: 6},
		"many foreign entries at the end": {
			stream: slices.Concat(entries(5, 6), entries(many...)),
			after:  4,
			head:   6,
		},
		"a foreign entry with a later seq": {
			stream: entries(9, 5, 9),
			after:  4,
			head:   6,
			first:  6,
			last:   6,
		},
		"a foreign entry with an old seq": {stream: entries(5, 6, 1), after: 4, head: 6},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.appendEntries(test.stream...)
			got, err := FindGap(f.ctx, f.redis, events.MainPool, test.after, test.head)
			if err != nil {
				t.Fatal(err)
			}
			if want := (Gap{First: test.first, Last: test.last}); got != want {
				t.Errorf("gap: got %+v, want %+v", got, want)
			}
		})
	}
}
