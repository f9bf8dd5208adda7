package journal

import "testing"

// TestPoolsHavePartitionsOfTheirOwn runs the journals of two pools in one database, where
// the first partitions of the pool main are detached. The other pool begins at seq 1,
// adds its partitions ahead, and detaches and attaches them, independently of main.
func TestPoolsHavePartitionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	for _, partition := range f.partitions()[:2] {
		if err := f.detach(partition); err != nil {
			t.Fatal(err)
		}
	}
	eu := f.inPool("eu")
	eu.appendEvents(260)
	eu.runJournal(60)
	eu.awaitJournal(260)
	eu.awaitAcknowledged()
	partitions := eu.partitions()
	assertContiguous(t, partitions)
	if partitions[0].Name != "events_eu_1" {
		t.Errorf("first partition of eu: got the name %s, want events_eu_1", partitions[0].Name)
	}
	if last := partitions[len(partitions)-1].Last; last <= 260+partitionEvents/2 {
		t.Errorf("end of eu's last partition: got seq %d, want a partition ahead of seq 260", last)
	}
	eu.assertCompleteAfter(0)
	f.assertDetachedAfter(0, "events_1 (events 1 to 100), events_101 (events 101 to 200); bring")

	page, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "eu", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Events) != 260 {
		t.Errorf("history of eu: got %d events, want 260: the detached partitions are main's", len(page.Events))
	}
	assertPoolDetaches(t, f, eu)
}

// assertPoolDetaches checks that only the readers of a pool keep its partitions attached,
// and that every detached partition can be attached to its pool's journal again.
func assertPoolDetaches(t *testing.T, main, eu *fixture) {
	t.Helper()
	main.setCheckpoint("orders", 0)
	eu.setCheckpoint("orders", 99)
	first := eu.partitions()[0]
	eu.assertDetachRefused(first, "needed by orders, which is at eu:99")
	eu.setCheckpoint("orders", 100)
	if err := eu.detach(first); err != nil {
		t.Fatal(err)
	}
	eu.assertDetachedAfter(0, "events_eu_1 (events 1 to 100); bring")
	reports, err := DescribePartitions(eu.ctx, eu.db, "eu", nil)
	if err != nil {
		t.Fatal(err)
	}
	if reports[0].Name != "events_eu_1" {
		t.Errorf("first report of eu: got %s, want events_eu_1", reports[0].Name)
	}
	if reports[0].State != PartitionDetached {
		t.Errorf("first report of eu: got state %s, want %s", reports[0].State, PartitionDetached)
	}
	if reports[1].Events != 100 {
		t.Errorf("second report of eu: got %d events, want 100", reports[1].Events)
	}
	for _, name := range []string{"events_eu_1", "events_1", "events_101"} {
		if _, err := AttachPartition(eu.ctx, eu.db, name); err != nil {
			t.Errorf("attach %s: %v", name, err)
		}
	}
	eu.assertCompleteAfter(0)
	main.assertCompleteAfter(0)
	for pool, want := range map[string]int64{"main": 350, "eu": 260} {
		if got := main.queryInt(`SELECT count(*) FROM events WHERE pool = $1`, pool); got != want {
			t.Errorf("events of %s: got %d, want %d", pool, got, want)
		}
	}
}
