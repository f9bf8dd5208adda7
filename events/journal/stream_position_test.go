package journal

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// createGroup creates a consumer group at the beginning of the stream, and the stream if
// it is missing.
func (f *fixture) createGroup(name string) {
	f.t.Helper()
	if err := f.redis.XGroupCreateMkStream(f.ctx, events.MainPool.StreamKey(), name, "0").Err(); err != nil {
		f.t.Fatal(err)
	}
}

// readThroughGroup reads entries through the journal's own group and does not acknowledge
// them, as an operator may do with redis-cli.
func (f *fixture) readThroughGroup(count int64) error {
	streams, err := f.redis.XReadGroup(f.ctx, &redis.XReadGroupArgs{
		Group:    events.ConsumerGroup,
		Consumer: "operator",
		Streams:  []string{events.MainPool.StreamKey(), ">"},
		Count:    count,
		Block:    10 * time.Second,
	}).Result()
	if err != nil {
		return err
	}
	if got := int64(len(streams[0].Messages)); got != count {
		return fmt.Errorf("read through the group: got %d entries, want %d", got, count)
	}
	return nil
}

// TestReadThroughTheGroupTakesNoEntryFromTheJournal checks that the journal gets every
// entry although an operator reads through its group, before it starts or while it runs,
// and that the group has no pending entries in the end.
func TestReadThroughTheGroupTakesNoEntryFromTheJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)

	// Before the journal's first start.
	f.appendEvents(5)
	f.appendEntry(map[string]any{"hello": "world"})
	f.createGroup(events.ConsumerGroup)
	if err := f.readThroughGroup(6); err != nil {
		t.Fatal(err)
	}
	_, stop := f.runJournal(0)
	f.awaitJournal(5)
	f.awaitAcknowledged()
	f.awaitParked(1)
	stop()

	// While it is stopped.
	f.appendEvents(5)
	f.appendEntry(map[string]any{"hello": "again"})
	if err := f.readThroughGroup(6); err != nil {
		t.Fatal(err)
	}
	w, _ := f.runJournal(0)
	f.awaitJournal(10)
	f.awaitAcknowledged()
	f.awaitParked(2)

	// While it runs: the journal and the operator wait for the next entry at the same
	// time.
	read := make(chan error)
	go func() { read <- f.readThroughGroup(1) }()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		clients := f.redis.InfoMap(f.ctx, "clients").Val()["Clients"]
		detail := fmt.Sprintf("clients of Redis: got %v, want 2 blocked", clients)
		return clients["blocked_clients"] == "2", detail
	})
	f.appendEvents(20)
	f.awaitJournal(30)
	if err := <-read; err != nil {
		t.Error(err)
	}
	assertRunning(t, w)
	f.awaitAcknowledged()
}

// TestForeignEntryReadThroughTheGroupIsParked checks that an entry that no command wrote
// is parked even if an operator has read it through the group and every event before it
// is journaled: the group's position does not show then how far the journal has read.
func TestForeignEntryReadThroughTheGroupIsParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendAndJournal(5)
	f.appendEntry(map[string]any{"hello": "world"})
	if err := f.readThroughGroup(1); err != nil {
		t.Fatal(err)
	}
	f.runJournal(0)
	f.awaitParked(1)
	f.awaitAcknowledged()
}

// TestMovedGroupIsPutBack checks that the journal misses no event wherever an operator
// moves its group, and that it puts the group back.
func TestMovedGroupIsPutBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	_, stop := f.runJournal(0)
	f.awaitJournal(3)
	for _, id := range []string{"0", "9999999999999-0", "18446744073709551615-18446744073709551615", "$"} {
		f.setGroup(id) // while the journal runs
		f.awaitAcknowledged()
		stop()
		f.setGroup(id) // while the journal is stopped and has every event
		_, stop = f.runJournal(0)
		f.awaitAcknowledged()
		stop()
		f.appendEvents(2)
		f.setGroup(id) // while the journal is stopped and lacks two events
		_, stop = f.runJournal(0)
		f.awaitJournal(f.seq)
		f.awaitAcknowledged()
	}
}

// TestMovedGroupHidesNoFork checks that a log that has forked from the journal's stops
// the journal, although its group was moved past the differing events and the seq after
// them is the journal's next one.
func TestMovedGroupHidesNoFork(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendAndJournal(10)
	for _, entry := range f.streamEntries()[5:] { // a Redis that lost its last events and then wrote others
		f.redis.XDel(f.ctx, events.MainPool.StreamKey(), entry.StreamID)
	}
	f.seq = 5
	f.appendEvents(10)
	f.setGroup("$")
	w, _ := f.runJournal(0)
	f.awaitFault(w, ErrFork.Error())
	f.awaitJournal(10)
}

// TestJournalReadsANewStreamWithLowerIDs checks that a running journal notices that Redis
// was emptied, although the entries of the new stream have lower ids than those of the
// old one, as after a clock was set back.
func TestJournalReadsANewStreamWithLowerIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(5)
	f.runJournal(0)
	f.awaitJournal(5)
	if err := f.redis.FlushAll(f.ctx).Err(); err != nil {
		t.Fatal(err)
	}
	f.setHead(6) // first, because the journal parks an entry beyond the log's head
	f.appendEntryWithID("1-1", eventFields(6))
	f.awaitJournal(6)
	f.awaitAcknowledged()
}

// appendEntryWithID appends an entry with the given stream id.
func (f *fixture) appendEntryWithID(id string, fields map[string]any) {
	f.t.Helper()
	args := &redis.XAddArgs{Stream: events.MainPool.StreamKey(), ID: id, Values: fields}
	if err := f.redis.XAdd(f.ctx, args).Err(); err != nil {
		f.t.Fatal(err)
	}
}

// TestJournalReadsAnOlderStreamWithItsGroup checks that a running journal notices that
// Redis lost its last entries but kept the group, as after a failover to a replica whose
// clock is behind.
func TestJournalReadsAnOlderStreamWithItsGroup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(5)
	f.runJournal(0)
	f.awaitJournal(5)
	f.awaitAcknowledged()
	older, err := f.redis.Dump(f.ctx, events.MainPool.StreamKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	inAnHour := fmt.Sprintf("%d-0", time.Now().Add(time.Hour).UnixMilli())
	f.seq++
	f.setHead(f.seq) // first, because the journal parks an entry beyond the log's head
	f.appendEntryWithID(inAnHour, eventFields(f.seq))
	f.awaitJournal(6)
	if err := f.redis.RestoreReplace(f.ctx, events.MainPool.StreamKey(), 0, older).Err(); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(4)
	f.awaitJournal(10)
	f.awaitAcknowledged()
}

// setJournalBack journals 20 events and removes the last 10 of them from Postgres, as a
// failover to a replica that is behind does.
func (f *fixture) setJournalBack() {
	f.t.Helper()
	f.appendAndJournal(20)
	f.exec(`DELETE FROM events WHERE seq > 10`)
	f.exec(`UPDATE checkpoints SET seq = 10`)
}

// TestJournalSetBackRereadsTheStreamWithoutALogHead checks that a journal that lost its
// last events reads them from the stream again, although Redis has no log head, as while
// a log is closed.
func TestJournalSetBackRereadsTheStreamWithoutALogHead(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setJournalBack()
	f.redis.Del(f.ctx, events.MainPool.MetaKey())
	f.runJournal(0)
	f.awaitJournal(20)
}

// TestEntryAboveTheLogHeadIsNoMissingEvent checks that an entry with a seq that was not
// assigned when it was read does not count as an event that the journal lacks, so it is
// parked once; and that it does not stop a journal that reads the stream again after the
// seq was assigned.
func TestEntryAboveTheLogHeadIsNoMissingEvent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(5)
	_, stop := f.runJournal(0)
	f.awaitJournal(5)
	f.appendEntry(eventFields(12))
	f.awaitParked(1)
	f.awaitAcknowledged()
	stop()
	_, stop = f.runJournal(0)
	f.appendEvents(1)
	f.awaitJournal(6)
	f.mu.Lock()
	if got := len(f.parked); got != 1 {
		t.Errorf("parked entries, repeats included: got %d, want 1", got)
	}
	f.mu.Unlock()
	f.appendEvents(19)
	f.awaitJournal(25)
	f.awaitAcknowledged()
	stop()
	f.appendEvents(1)
	if err := f.readThroughGroup(1); err != nil {
		t.Fatal(err)
	}
	f.runJournal(0)
	f.awaitJournal(26)
	f.awaitParked(1)
}

// TestJournalStartsOnAFullRedis checks that a journal that starts on a Redis that has no
// memory left for writes still reads and trims the stream, since only the trim makes
// room.
func TestJournalStartsOnAFullRedis(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSingleEntryNodes()
	f.appendEvents(5)
	_, stop := f.runJournal(0)
	f.awaitJournal(5)
	f.appendEvents(20)
	stop()
	if err := f.redis.ConfigSet(f.ctx, "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := f.redis.Set(f.ctx, "any", "thing", 0).Err(); !redis.HasErrorPrefix(err, "OOM") {
		t.Fatalf("write to the full Redis: got %v, want an OOM error", err)
	}
	f.runJournalWith(StreamSubscriberConfig{}, slog.New(slog.DiscardHandler))
	f.awaitJournal(25)
	f.awaitStreamLength(0)
}

// TestGroupLagIsRightAfterADeletedEntry checks that the group's lag ends at zero although
// an entry was deleted before it was read.
func TestGroupLagIsRightAfterADeletedEntry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(3)
	_, stop := f.runJournal(0)
	f.awaitJournal(3)
	stop()
	deleted := f.appendEntry(map[string]any{"hello": "world"})
	f.redis.XDel(f.ctx, events.MainPool.StreamKey(), deleted)
	f.appendEvents(3)
	f.runJournal(0)
	f.awaitJournal(6)
	f.awaitAcknowledged()
}
