package journal

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// useSingleEntryNodes makes Redis keep one entry per node of the stream, so that it trims
// to the exact entry instead of to the next hundred.
func (f *fixture) useSingleEntryNodes() {
	f.t.Helper()
	if err := f.redis.ConfigSet(f.ctx, "stream-node-max-entries", "1").Err(); err != nil {
		f.t.Fatal(err)
	}
}

// describeStream returns the state of the stream.
func (f *fixture) describeStream() stream.State {
	f.t.Helper()
	state, err := stream.Describe(f.ctx, f.redis, events.MainPool)
	if err != nil {
		f.t.Fatal(err)
	}
	return state
}

// TestRunningJournalTrimsTheStream checks that a running journal trims the entries that
// it has taken, that none is trimmed while it is stopped, and that no event is lost when
// Redis is killed in between.
func TestRunningJournalTrimsTheStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSingleEntryNodes()
	config := StreamSubscriberConfig{BatchMax: 7}
	f.appendEvents(100)
	_, stop := f.runJournalWith(config, slog.New(slog.DiscardHandler))
	f.awaitJournal(100)
	f.awaitStreamLength(0)
	stop()
	f.appendEvents(100)
	backlog := f.describeStream()
	if backlog.Entries != 100 {
		t.Errorf("stream while the journal is stopped: got %d entries, want 100", backlog.Entries)
	}
	if backlog.HeldBy != events.ConsumerGroup {
		t.Errorf("stream while the journal is stopped: got HeldBy %q, want %q",
			backlog.HeldBy, events.ConsumerGroup)
	}
	if backlog.Oldest.IsZero() {
		t.Error("stream while the journal is stopped: got no time of the oldest entry, want one")
	}
	_, stop = f.runJournalWith(config, slog.New(slog.DiscardHandler))
	f.awaitJournal(200)
	f.awaitStreamLength(0)
	if err := f.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.server.Start(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(50)
	f.awaitJournal(250)
	f.awaitStreamLength(0)
	stop()
	if got := f.describeStream(); got != (stream.State{}) {
		t.Errorf("stream in the end: got %+v, want it empty", got)
	}
}

// TestJournalSetBackRereadsTheStream checks that a journal that lost its last events, as
// after a failover of Postgres, reads them from the stream again, and that the stream is
// not trimmed while the journal lacks them.
func TestJournalSetBackRereadsTheStream(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSingleEntryNodes()
	f.setJournalBack()
	f.appendEvents(5)
	trimmer := &stream.Trimmer{
		Redis: f.redis,
		Pool:  events.MainPool,
		Log:   slog.New(slog.DiscardHandler),
	}
	trouble, err := trimmer.Trim(f.ctx, 10)
	if err != nil {
		t.Errorf("trim: %v", err)
	}
	if want := "the journal ends before them"; !strings.Contains(trouble, want) {
		t.Errorf("trim: got the trouble %q, want one with %q", trouble, want)
	}
	meta, err := f.redis.HGetAll(f.ctx, events.MainPool.MetaKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	f.redis.Del(f.ctx, events.MainPool.MetaKey()) // as while Redis is being restored
	trouble, err = trimmer.Trim(f.ctx, 10)
	if err != nil {
		t.Errorf("trim without a log head: %v", err)
	}
	if trouble != "" {
		t.Errorf("trim without a log head: got the trouble %q, want none", trouble)
	}
	f.redis.HSet(f.ctx, events.MainPool.MetaKey(), meta)
	if got := len(f.streamEntries()); got != 25 {
		t.Errorf("entries on the stream: got %d, want 25", got)
	}
	// which keeps no entry for a time
	f.runJournalWith(StreamSubscriberConfig{}, slog.New(slog.DiscardHandler))
	f.awaitJournal(25)
	f.awaitAcknowledged()
}

// TestNoEventIsTrimmedBeforeItIsJournaled cuts the journal's connections to Postgres or
// Redis at random moments of a batch or a trim. It checks that every event is journaled
// and that the stream is empty in the end.
func TestNoEventIsTrimmedBeforeItIsJournaled(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSingleEntryNodes()
	application := "journal of " + f.config.RuntimeParams["search_path"]
	f.config.RuntimeParams["application_name"] = application
	f.runJournalWith(StreamSubscriberConfig{BatchMax: 20}, slog.New(slog.DiscardHandler))
	const terminate = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`
	for range 6 {
		f.appendEvents(30 + rand.IntN(100))
		seq := f.seq - rand.Int64N(30)
		// Wait for a journal that works, so that the cut meets it within a batch or a
		// trim.
		testenv.Eventually(t, 30*time.Second, func() (bool, string) {
			at, err := worker.ReadCheckpoint(f.ctx, f.db, CheckpointName, "main")
			return at >= seq, fmt.Sprintf("the journal is at seq %d (%v), want %d", at, err, seq)
		})
		if rand.IntN(2) == 0 {
			f.exec(terminate, application)
			continue
		}
		if err := f.redis.ClientKillByFilter(f.ctx, "TYPE", "normal").Err(); err != nil {
			t.Fatal(err)
		}
	}
	f.awaitJournal(f.seq)
	f.awaitStreamLength(0)
}

// TestEntriesStayForOtherGroups checks that entries stay on the stream until another
// program's consumer group has read them, that the log says so once, and that they are
// trimmed after that group is removed.
func TestEntriesStayForOtherGroups(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSingleEntryNodes()
	f.createGroup("theirs")
	f.appendEvents(20)
	var log testenv.LogBuffer
	f.runJournalWith(StreamSubscriberConfig{}, slog.New(slog.NewTextHandler(&log, nil)))
	f.awaitJournal(20)
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		return strings.Count(log.String(), "consumer group theirs") > 0, "the log does not name the group"
	})
	f.appendEvents(20)
	f.awaitJournal(40)
	state := f.describeStream()
	if state.Entries != 40 {
		t.Errorf("stream with the other group: got %d entries, want 40", state.Entries)
	}
	if state.HeldBy != "theirs" {
		t.Errorf("stream with the other group: got HeldBy %q, want %q", state.HeldBy, "theirs")
	}
	if err := f.redis.XGroupDestroy(f.ctx, events.MainPool.StreamKey(), "theirs").Err(); err != nil {
		t.Fatal(err)
	}
	f.awaitStreamLength(0)
	if got := strings.Count(log.String(), "consumer group theirs"); got != 1 {
		t.Errorf("log lines that name the group: got %d, want 1", got)
	}
}
