package journal

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/events"
)

// newPartitionedJournal returns a fixture whose journal has 350 events in partitions of
// 100, all of them acknowledged on the stream. The journal keeps running.
func newPartitionedJournal(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.useSmallPartitions()
	f.appendEvents(350)
	f.runJournal(60)
	f.awaitJournal(350)
	f.awaitAcknowledged()
	return f
}

// detach tries to detach a partition. The names are those of readers that must have
// passed it.
func (f *fixture) detach(partition Partition, names ...string) error {
	f.t.Helper()
	group, err := GroupPosition(f.ctx, f.redis, f.pool)
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = DetachPartition(f.ctx, f.db, partition, group, names...)
	return err
}

// journalRows returns the rows of the journal's table as text.
func (f *fixture) journalRows() string {
	f.t.Helper()
	const query = `SELECT string_agg(e::text, E'\n' ORDER BY pool, seq) FROM events e`
	var text string
	if err := f.db.QueryRow(f.ctx, query).Scan(&text); err != nil {
		f.t.Fatal(err)
	}
	return text
}

// assertDetachRefused checks that a partition cannot be detached, for a reason that
// contains a text.
func (f *fixture) assertDetachRefused(partition Partition, reason string, names ...string) {
	f.t.Helper()
	err := f.detach(partition, names...)
	if !errors.Is(err, ErrPartitionNeeded) {
		f.t.Errorf("detach %s: got %v, want ErrPartitionNeeded", partition.Name, err)
		return
	}
	if !strings.Contains(err.Error(), reason) {
		f.t.Errorf("detach %s: got %v, want an error with %q", partition.Name, err, reason)
	}
}

// TestDetachOfANeededPartitionIsRefused checks that no partition is detached that a
// projection has yet to read, be it behind or not started, or that the journal's group
// has not acknowledged; and that only the oldest partition is detached, and never the
// newest.
func TestDetachOfANeededPartitionIsRefused(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	f.setCheckpoint("orders", 99)
	partitions := f.partitions()
	f.assertDetachRefused(partitions[0], "needed by orders, which is at main:99")
	f.setCheckpoint("orders", 100)
	f.assertDetachRefused(partitions[0], "needed by hourly, which is at main:0", "hourly")
	f.assertDetachRefused(partitions[1], "only the oldest")
	otherBounds := partitions[0]
	otherBounds.Last = 50
	f.assertDetachRefused(otherBounds, "only the oldest")

	// The journal is compared with an event that is redelivered because it was not
	// acknowledged.
	group := ReaderPosition{Name: "group", Pool: "main", Seq: 99}
	if _, err := DetachPartition(f.ctx, f.db, partitions[0], group); !errors.Is(err, ErrPartitionNeeded) {
		t.Errorf("detach a partition that the group needs: got %v, want ErrPartitionNeeded", err)
	}
	if got := len(f.partitions()); got != 4 {
		t.Errorf("partitions after the refusals: got %d, want 4", got)
	}
	if len(f.journalRows()) == 0 {
		t.Error("rows after the refusals: got none, want all")
	}

	// The newest partition stays even if every reader has passed it.
	f.setCheckpoint("orders", 1000)
	f.setCheckpoint(CheckpointName, 1000)
	for _, partition := range partitions[:3] {
		if err := f.detach(partition); err != nil {
			t.Errorf("detach %s: %v", partition.Name, err)
		}
	}
	f.assertDetachRefused(partitions[3], "never the newest")
}

// TestDetachGivesUpDuringALongRead checks that a detach gives up while a transaction
// reads the journal, instead of blocking other readers behind it, and that it succeeds
// after that transaction.
func TestDetachGivesUpDuringALongRead(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	longRead, err := f.connect().Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEvents(f.ctx, longRead, "main", 0, 10); err != nil {
		t.Fatal(err)
	}
	oldest := f.partitions()[0]
	if err := f.detach(oldest); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Errorf("detach during a long read: got %v, want an error with %q", err, "try again later")
	}
	if err := CheckComplete(f.ctx, f.db, "main", 0); err != nil {
		t.Errorf("journal after the failed detach: got %v, want it complete", err)
	}
	if err := longRead.Rollback(f.ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.detach(oldest); err != nil {
		t.Errorf("detach after the long read: %v", err)
	}
}

// TestGroupPositionIsBeforeTheFirstUnacknowledgedEvent checks that GroupPosition is
// directly before the first event that the journal's group has not acknowledged, not
// counting entries that are no events.
func TestGroupPositionIsBeforeTheFirstUnacknowledgedEvent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	assertPosition := func(state string, want int64) {
		t.Helper()
		group, err := GroupPosition(f.ctx, f.redis, events.MainPool)
		if err != nil {
			t.Errorf("%s: %v", state, err)
		}
		if group.Seq != want {
			t.Errorf("%s: got seq %d, want %d", state, group.Seq, want)
		}
	}
	assertPosition("no stream", math.MaxInt64)
	for range 150 {
		f.appendEntry(map[string]any{"hello": "world"})
	}
	assertPosition("no event on the stream", math.MaxInt64)
	f.appendEvents(20)
	assertPosition("no group", 0)
	f.createGroup(events.ConsumerGroup)
	assertPosition("group at the beginning", 0)
	entries := f.streamEntries()
	for _, seq := range []int64{4, 10} {
		f.setGroup(entries[150+seq-1].StreamID)
		assertPosition("group after an event", seq)
	}
}

// assertCompleteAfter checks that the journal has every event after a seq.
func (f *fixture) assertCompleteAfter(seq int64) {
	f.t.Helper()
	if err := CheckComplete(f.ctx, f.db, f.pool.Name(), seq); err != nil {
		f.t.Errorf("journal after seq %d: got %v, want it complete", seq, err)
	}
}

// assertDetachedAfter checks that events after a seq are reported as detached, with an
// error that contains a text.
func (f *fixture) assertDetachedAfter(seq int64, text string) {
	f.t.Helper()
	err := CheckComplete(f.ctx, f.db, f.pool.Name(), seq)
	if !errors.Is(err, ErrDetached) {
		f.t.Errorf("journal after seq %d: got %v, want ErrDetached", seq, err)
		return
	}
	if !strings.Contains(err.Error(), text) {
		f.t.Errorf("journal after seq %d: got %v, want an error with %q", seq, err, text)
	}
}

// TestAttachRestoresTheDetachedPartitions checks that partitions can be detached while
// the journal runs, that a replay that needs them is refused with their names, that their
// report is right, and that attaching them restores the same rows.
func TestAttachRestoresTheDetachedPartitions(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	before := f.journalRows()
	f.assertCompleteAfter(0)
	for _, partition := range f.partitions()[:2] {
		if err := f.detach(partition); err != nil {
			t.Fatal(err)
		}
	}
	f.assertDetachedAfter(0, "events_1 (events 1 to 100), events_101 (events 101 to 200); "+
		"bring it back with `stockstream journal attach events_1`")
	f.assertDetachedAfter(100, "attach events_101")
	f.assertCompleteAfter(200)
	f.assertCompleteAfter(350)
	assertReaderSeesTheHole(t, f)
	readers, err := ReaderPositions(f.ctx, f.db)
	if err != nil {
		t.Fatal(err)
	}
	if len(readers) != 1 {
		t.Errorf("readers: got %+v, want 1", readers)
	}
	assertReports(t, f)
	for _, name := range []string{"events_101", "events_1"} {
		partition, err := AttachPartition(f.ctx, f.db, name)
		if err != nil {
			t.Errorf("attach %s: %v", name, err)
		}
		if partition.Events != 100 {
			t.Errorf("attach %s: got %d events, want 100", name, partition.Events)
		}
	}
	f.assertCompleteAfter(0)
	if after := f.journalRows(); after != before {
		t.Errorf("rows after the attach: got\n%s\nwant the rows before the detach:\n%s", after, before)
	}
	assertContiguous(t, f.partitions())
	f.appendEvents(100)
	f.awaitJournal(450)
}

// assertReaderSeesTheHole checks that a reader from the beginning is given the events
// after the two detached partitions, so that it notices the hole.
func assertReaderSeesTheHole(t *testing.T, f *fixture) {
	t.Helper()
	found, err := ReadEvents(f.ctx, f.db, "main", 0, 50)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatal("read from the beginning: got no events, want those from seq 201 on")
	}
	if got := found[0].Seq; got != 201 {
		t.Errorf("read from the beginning: got the first seq %d, want 201", got)
	}
}

// assertReports checks the reports of the first partition, which is detached, and of the
// fourth, which a reader at seq 340 needs.
func assertReports(t *testing.T, f *fixture) {
	t.Helper()
	reader := ReaderPosition{Name: "x", Pool: "main", Seq: 340}
	reports, err := DescribePartitions(f.ctx, f.db, "main", []ReaderPosition{reader})
	if err != nil {
		t.Fatal(err)
	}
	if len(reports) != 4 {
		t.Fatalf("reports: got %+v, want 4", reports)
	}
	first := reports[0]
	if first.Name != "events_1" {
		t.Errorf("first partition: got the name %s, want events_1", first.Name)
	}
	if first.State != PartitionDetached {
		t.Errorf("first partition: got state %s, want %s", first.State, PartitionDetached)
	}
	if first.Events != 100 {
		t.Errorf("first partition: got %d events, want 100", first.Events)
	}
	if first.Bytes == 0 {
		t.Error("first partition: got 0 bytes, want the size of its table")
	}
	if len(first.NeededBy) != 0 {
		t.Errorf("first partition: got the readers %v that need it, want none", first.NeededBy)
	}
	fourth := reports[3]
	if fourth.State != PartitionAttached {
		t.Errorf("fourth partition: got state %s, want %s", fourth.State, PartitionAttached)
	}
	if fourth.Events != 50 {
		t.Errorf("fourth partition: got %d events, want 50", fourth.Events)
	}
	if len(fourth.NeededBy) != 1 {
		t.Errorf("fourth partition: got the readers %v that need it, want 1", fourth.NeededBy)
	}
	if got := fourth.FirstAt.UnixMilli(); got != 1764000000301 {
		t.Errorf("fourth partition: got its first event at %d ms, want 1764000000301", got)
	}
	if got := fourth.LastAt.UnixMilli(); got != 1764000000350 {
		t.Errorf("fourth partition: got its last event at %d ms, want 1764000000350", got)
	}
}

// TestAttachOfAChangedPartitionIsRefused checks that a partition is attached only if its
// table has exactly the rows that were detached.
func TestAttachOfAChangedPartitionIsRefused(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	if err := f.detach(f.partitions()[0]); err != nil {
		t.Fatal(err)
	}
	assertRefused := func(name, want string) {
		t.Helper()
		_, err := AttachPartition(f.ctx, f.db, name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("attach %s: got error %v, want %q in it", name, err, want)
		}
	}
	assertRefused("events_101", "no such detached partition")
	f.exec(`CREATE TABLE backup AS SELECT * FROM events_1`)
	for _, change := range []string{
		`DELETE FROM events_1 WHERE seq = 100`,
		`UPDATE events_1 SET payload = payload || '{"qty":2}' WHERE seq = 7`,
		`UPDATE events_1 SET at = at + interval '1 microsecond' WHERE seq = 7`,
		`UPDATE events_1 SET hold_id = 'h8' WHERE seq = 7`,
	} {
		f.exec(change)
		assertRefused("events_1", "the partition's rows are not those that were detached")
		f.exec(`TRUNCATE events_1; INSERT INTO events_1 SELECT * FROM backup`)
	}
	f.exec(`ALTER TABLE events_1 RENAME TO elsewhere`)
	assertRefused("events_1", ErrPartitionGone.Error())
	reports, err := DescribePartitions(f.ctx, f.db, "main", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := reports[0].State; got != PartitionGone {
		t.Errorf("partition without its table: got state %s, want %s", got, PartitionGone)
	}
	if got := reports[0].Events; got != 100 {
		t.Errorf("partition without its table: got %d events, want 100", got)
	}
	f.exec(`ALTER TABLE elsewhere RENAME TO events_1`)
	if _, err := AttachPartition(f.ctx, f.db, "events_1"); err != nil {
		t.Errorf("attach the unchanged partition: %v", err)
	}
}

// TestMissingEventsAreAHole checks that CheckComplete reports events that are missing,
// but not detached, as a hole.
func TestMissingEventsAreAHole(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]string{
		"first event":                `DELETE FROM events WHERE seq = 1`,
		"last event":                 `DELETE FROM events WHERE seq = 350`,
		"last event of a partition":  `DELETE FROM events WHERE seq = 200`,
		"partition detached by hand": `ALTER TABLE events_main DETACH PARTITION events_101`,
		"last partitions":            `DROP TABLE events_301, events_401`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.useSmallPartitions()
			f.addPartitions(450)
			f.insertAdjustments(350)
			if err := CheckComplete(f.ctx, f.db, "main", 0); err != nil {
				t.Errorf("journal with its checkpoint at 0: got %v, want it complete", err)
			}
			f.setCheckpoint(CheckpointName, 350)
			if err := CheckComplete(f.ctx, f.db, "main", 0); err != nil {
				t.Errorf("journal before the removal: got %v, want it complete", err)
			}
			f.exec(remove)
			if err := CheckComplete(f.ctx, f.db, "main", 0); !errors.Is(err, ErrHole) {
				t.Errorf("journal after the removal: got %v, want ErrHole", err)
			}
		})
	}
}
