package stream

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// randomStream is a stream in a random state, and the facts from which the test works out
// which of its entries have to be trimmed.
type randomStream struct {
	*fixture
	seed            uint64
	random          *rand.Rand
	now             time.Time
	keep            time.Duration // the window within which every entry stays
	entries         []randomEntry
	head            int64 // the last assigned seq
	journaled       int64 // the seq at which the journal ends
	hasJournalGroup bool
}

type randomEntry struct {
	id     ID
	seq    int64     // 0 for a foreign entry
	at     time.Time // when it was appended
	dated  bool      // whether at can be read from its id or from a field
	needed bool      // whether a group has yet to read or to acknowledge it
}

// newRandomStream empties Redis and writes the stream of a seed, with its groups.
func newRandomStream(f *fixture, seed uint64) *randomStream {
	f.t.Helper()
	if err := f.redis.FlushAll(f.ctx).Err(); err != nil {
		f.t.Fatal(err)
	}
	now, err := f.redis.Time(f.ctx).Result()
	if err != nil {
		f.t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(seed, 1))
	windows := []time.Duration{0, 5 * time.Minute, 15 * time.Minute, time.Hour}
	s := &randomStream{
		fixture: f,
		seed:    seed,
		random:  random,
		now:     now,
		keep:    windows[random.IntN(4)],
	}
	s.appendRandomEntries()
	s.hasJournalGroup = random.IntN(20) > 0
	if s.hasJournalGroup {
		s.addGroup(events.ConsumerGroup)
	}
	for i := range random.IntN(3) {
		s.addGroup(fmt.Sprint("other", i))
	}
	return s
}

// appendRandomEntries appends entries that are up to twenty minutes old, none of them
// within half a minute of the edge of a window. In some streams an id is a day ahead, and
// so are all ids after it.
func (s *randomStream) appendRandomEntries() {
	s.t.Helper()
	count := s.random.IntN(25)
	age := 20 * time.Minute
	pipe := s.redis.Pipeline()
	leap := s.random.IntN(50) // the index of the first entry whose id is a day ahead
	for i := range count {
		entry := randomEntry{at: s.now.Add(-age - 30*time.Second), dated: true}
		entry.id = ID{Ms: uint64(entry.at.UnixMilli()), N: uint64(i)}
		fields := map[string]any{"hello": "world"}
		switch s.random.IntN(8) {
		case 0:
		case 1:
			fields = eventFields(1_000_000) // a seq that was never assigned
		default:
			s.head++
			entry.seq = s.head
			fields = eventFields(s.head)
		}
		if fields[events.FieldSeq] != nil {
			fields[events.FieldAt] = entry.at.UnixMilli()
		}
		if i >= leap {
			entry.id.Ms = uint64(s.now.Add(24 * time.Hour).UnixMilli())
			entry.dated = fields[events.FieldSeq] != nil
		}
		// An id is ahead because Redis's clock was ahead, and then the time is, too, or
		// because it was typed by hand.
		if i == leap && s.random.IntN(2) == 0 {
			fields[events.FieldAt] = entry.id.Ms
			entry.dated = false
		}
		pipe.XAdd(s.ctx, &redis.XAddArgs{
			Stream: events.MainPool.StreamKey(),
			ID:     entry.id.String(),
			Values: fields,
		})
		s.entries = append(s.entries, entry)
		age = max(0, age-time.Duration(s.random.IntN(3))*time.Minute)
	}
	pipe.HSet(s.ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", s.head)
	if _, err := pipe.Exec(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	s.journaled = s.random.Int64N(s.head + 1)
	if s.random.IntN(3) > 0 {
		s.journaled = s.head
	}
}

// addGroup adds a consumer group that has read some of the entries and acknowledged some
// of those.
func (s *randomStream) addGroup(name string) {
	s.t.Helper()
	key := events.MainPool.StreamKey()
	if err := s.redis.XGroupCreateMkStream(s.ctx, key, name, "0").Err(); err != nil {
		s.t.Fatal(err)
	}
	read := 0
	if len(s.entries) > 0 {
		read = s.random.IntN(len(s.entries) + 1)
	}
	if read > 0 {
		err := s.redis.XReadGroup(s.ctx, &redis.XReadGroupArgs{
			Group:    name,
			Consumer: "c",
			Streams:  []string{key, ">"},
			Count:    int64(read),
			Block:    -1,
		}).Err()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	forgetsSome := s.random.IntN(3) == 0
	for i := range s.entries {
		if i >= read || forgetsSome && s.random.IntN(4) == 0 {
			s.entries[i].needed = true
			continue
		}
		if err := s.redis.XAck(s.ctx, key, name, s.entries[i].id.String()).Err(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// expectedTrim returns how many entries have to be trimmed. An entry is trimmed together
// with all before it or not at all.
func (s *randomStream) expectedTrim() (trimmed int) {
	for i, entry := range s.entries {
		if entry.needed || !entry.at.Before(s.now.Add(-s.keep)) {
			break
		}
		if entry.dated {
			trimmed = i + 1
		}
	}
	for _, entry := range s.entries[:trimmed] {
		if entry.seq > s.journaled || !s.hasJournalGroup {
			return 0
		}
	}
	return trimmed
}

// TestTrimDropsOnlyEntriesThatAreOldReadAndJournaled checks, over random states of a
// stream, that a trim drops exactly the entries that are older than the window,
// acknowledged by every group, and in the journal; and that ids still only grow after it.
func TestTrimDropsOnlyEntriesThatAreOldReadAndJournaled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// With one entry per node of the stream, Redis trims to the exact entry instead of to
	// the next hundred.
	if err := f.redis.ConfigSet(f.ctx, "stream-node-max-entries", "1").Err(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for seed := range uint64(300) {
		s := newRandomStream(f, seed)
		trimmer := &Trimmer{
			Redis: f.redis,
			Pool:  events.MainPool,
			Keep:  s.keep,
			Log:   slog.New(slog.DiscardHandler),
		}
		if _, err := trimmer.Trim(f.ctx, s.journaled); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		trimmed := s.expectedTrim()
		total += trimmed
		s.assertTrimmed(trimmed)
		s.assertLastIDIsTaken()
	}
	if total < 300 {
		t.Errorf("entries trimmed over all seeds: got %d, want at least 300 for the test to show anything",
			total)
	}
}

// assertTrimmed checks that exactly the first entries, so many of them, are gone.
func (s *randomStream) assertTrimmed(trimmed int) {
	s.t.Helper()
	left, err := s.redis.XRange(s.ctx, events.MainPool.StreamKey(), "-", "+").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	var got, want []string
	for _, entry := range left {
		got = append(got, entry.ID)
	}
	for _, entry := range s.entries[trimmed:] {
		want = append(want, entry.id.String())
	}
	if !slices.Equal(got, want) {
		s.t.Errorf("seed %d (window %s, journal at seq %d of %d): got the entries %v, want %v",
			s.seed, s.keep, s.journaled, s.head, got, want)
	}
}

// assertLastIDIsTaken checks that the stream refuses an entry with the id of its last
// one, trimmed or not.
func (s *randomStream) assertLastIDIsTaken() {
	s.t.Helper()
	if len(s.entries) == 0 {
		return
	}
	err := s.redis.XAdd(s.ctx, &redis.XAddArgs{
		Stream: events.MainPool.StreamKey(),
		ID:     s.entries[len(s.entries)-1].id.String(),
		Values: []string{"a", "b"},
	}).Err()
	if err == nil {
		s.t.Errorf("seed %d: append an entry with the last id again: got no error, want it refused", s.seed)
	}
}
