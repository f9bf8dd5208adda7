package journal

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// useSmallPartitions replaces the first partition, which the migration made, by one of
// partitionEvents events.
func (f *fixture) useSmallPartitions() {
	f.t.Helper()
	err := pgx.BeginFunc(f.ctx, f.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(f.ctx, `DROP TABLE events_1`); err != nil {
			return err
		}
		_, err := addPartition(f.ctx, tx, events.MainPool, 1, 1+partitionEvents)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// partitions returns the attached partitions of the journal.
func (f *fixture) partitions() []Partition {
	f.t.Helper()
	partitions, err := Partitions(f.ctx, f.db, f.pool.Name())
	if err != nil {
		f.t.Fatal(err)
	}
	return partitions
}

// addPartitions adds partitions until one has a seq above the given one.
func (f *fixture) addPartitions(beyond int64) {
	f.t.Helper()
	err := pgx.BeginFunc(f.ctx, f.db, func(tx pgx.Tx) error {
		_, err := addPartitions(f.ctx, tx, events.MainPool, beyond, slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// assertContiguous checks that the partitions follow each other from seq 1 without a gap,
// each named for its first seq.
func assertContiguous(t *testing.T, partitions []Partition) {
	t.Helper()
	next := int64(1)
	for _, partition := range partitions {
		if partition.First != next {
			t.Errorf("partition %s: got the first seq %d, want %d", partition.Name, partition.First, next)
		}
		if want := partitionName(partition.Pool, partition.First); partition.Name != want {
			t.Errorf("partition from seq %d: got the name %s, want %s", partition.First, partition.Name, want)
		}
		next = partition.Last + 1
	}
}

// TestMigrationMakesTheFirstPartition checks that the partition that the migration makes
// is one that Partitions recognises.
func TestMigrationMakesTheFirstPartition(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := []Partition{{
		Pool:  "main",
		Name:  "events_1",
		First: 1,
		Last:  2_000_000,
	}}
	if got := f.partitions(); !slices.Equal(got, want) {
		t.Errorf("partitions: got %+v, want %+v", got, want)
	}
}

// TestJournalAddsPartitionsInTime checks that a journal adds partitions before it needs
// them, with batches that cross their bounds at any point, and that every event is in the
// partition of its seq.
func TestJournalAddsPartitionsInTime(t *testing.T) {
	t.Parallel()
	for _, batchMax := range []int{1, 70, 2000} {
		t.Run(fmt.Sprint(batchMax), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.useSmallPartitions()
			f.appendEvents(420)
			f.runJournal(batchMax)
			f.awaitJournal(420)
			f.appendEvents(260)
			f.awaitJournal(680)
			partitions := f.partitions()
			assertContiguous(t, partitions)
			if last := partitions[len(partitions)-1].Last; last <= 680+partitionEvents/2 {
				t.Errorf("end of the last partition: got seq %d, want a partition ahead of seq 680", last)
			}
			for _, partition := range partitions[:6] {
				assertFull(t, f, partition)
			}
			found, err := ReadEvents(f.ctx, f.db, "main", 95, 300)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 300 {
				t.Fatalf("read across partitions: got %d events, want 300", len(found))
			}
			if got := found[0].Seq; got != 96 {
				t.Errorf("read across partitions: got the first seq %d, want 96", got)
			}
			if got := found[299].Seq; got != 395 {
				t.Errorf("read across partitions: got the last seq %d, want 395", got)
			}
		})
	}
}

// assertFull checks that a partition has the 100 events of its bounds.
func assertFull(t *testing.T, f *fixture, partition Partition) {
	t.Helper()
	var count, lowest, highest int64
	query := `SELECT count(*), min(seq), max(seq) FROM ` + postgres.QuoteIdentifier(partition.Name)
	if err := f.db.QueryRow(f.ctx, query).Scan(&count, &lowest, &highest); err != nil {
		t.Fatal(err)
	}
	if count != 100 {
		t.Errorf("partition %s: got %d events, want 100", partition.Name, count)
	}
	if lowest != partition.First {
		t.Errorf("partition %s: got the lowest seq %d, want %d", partition.Name, lowest, partition.First)
	}
	if highest != partition.Last {
		t.Errorf("partition %s: got the highest seq %d, want %d", partition.Name, highest, partition.Last)
	}
}

// TestConcurrentAddPartitionsSucceed checks that processes that need the same partitions
// at the same time all get them.
func TestConcurrentAddPartitionsSucceed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSmallPartitions()
	var processes sync.WaitGroup
	for range 4 {
		conn := f.connect()
		processes.Go(func() {
			err := pgx.BeginFunc(f.ctx, conn, func(tx pgx.Tx) error {
				end, err := addPartitions(f.ctx, tx, events.MainPool, 1000, slog.New(slog.DiscardHandler))
				if err == nil && end != 1001 {
					err = fmt.Errorf("the partitions end before seq %d, want 1001", end)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	processes.Wait()
	if got := len(f.partitions()); got != 10 {
		t.Errorf("partitions: got %d, want 10", got)
	}
	assertContiguous(t, f.partitions())
}

// TestJournalWaitsForItsNextPartition checks that a journal that cannot add its next
// partition fills the one it has, then waits, and continues once it can, without skipping
// an event.
func TestJournalWaitsForItsNextPartition(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSmallPartitions()
	blocker, err := f.connect().Begin(f.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := lockPartitions(f.ctx, blocker); err != nil {
		t.Fatal(err)
	}
	var log testenv.LogBuffer
	f.appendEvents(80)
	config := StreamSubscriberConfig{BatchMax: 20, Keep: time.Hour}
	w, _ := f.runJournalWith(config, slog.New(slog.NewTextHandler(&log, nil)))
	f.awaitJournal(80)
	if strings.Count(log.String(), "could not be created ahead of need") == 0 {
		t.Error("log: got no line about the missing partition, want one")
	}
	f.appendEvents(80)
	f.awaitFault(w, "lock the partitions")
	seq, err := worker.ReadCheckpoint(f.ctx, f.db, CheckpointName, "main")
	if err != nil {
		t.Fatal(err)
	}
	if seq < 80 || seq > 100 {
		t.Errorf("journal without a next partition: got seq %d, want it from 80 to 100", seq)
	}
	if err := blocker.Rollback(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitJournal(160)
}

// TestJournalAddsALostPartitionAgain checks that a running journal whose newest partition
// has vanished, as after Postgres was restored from a backup, notices it and adds the
// partition again.
func TestJournalAddsALostPartitionAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSmallPartitions()
	f.appendEvents(90)
	f.runJournal(0)
	f.awaitJournal(90)
	f.exec(`DROP TABLE events_101`)
	f.appendEvents(30)
	f.awaitJournal(120)
}

// explain returns the lines of the plan that Postgres has for a query.
func (f *fixture) explain(sql string, args ...any) []string {
	f.t.Helper()
	rows, err := f.db.Query(f.ctx, "EXPLAIN "+sql, args...)
	if err != nil {
		f.t.Fatal(err)
	}
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatal(err)
	}
	return plan
}

var partitionInPlan = regexp.MustCompile(`events_\d+ `)

// plannedPartitions returns the names of the partitions that a query reads, each once and
// in order.
func (f *fixture) plannedPartitions(sql string, args ...any) []string {
	f.t.Helper()
	names := map[string]bool{}
	for _, line := range f.explain(sql, args...) {
		for _, name := range partitionInPlan.FindAllString(line, -1) {
			names[strings.TrimSpace(name)] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// TestReadTouchesOnlyItsPartition checks that a page of the journal is read from the
// partition of its events alone, however many partitions there are, and that Postgres
// does not switch to a generic plan, which opens all of them.
func TestReadTouchesOnlyItsPartition(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSmallPartitions()
	f.addPartitions(5000)
	f.insertAdjustments(5000)
	const page = `SELECT seq FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`
	got := f.plannedPartitions(page, "main", 2310, 2360, 50)
	if want := []string{"events_2301"}; !slices.Equal(got, want) {
		t.Errorf("partitions that a page reads: got %v, want %v", got, want)
	}
	for after := int64(0); after < 5000; after += 50 {
		found, err := ReadEvents(f.ctx, f.db, "main", after, 50)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) != 50 {
			t.Fatalf("read after %d: got %d events, want 50", after, len(found))
		}
	}
	const statements = `FROM pg_prepared_statements WHERE statement LIKE 'SELECT pool%seq <= $3%'`
	if custom := f.queryInt(`SELECT sum(custom_plans) ` + statements); custom < 100 {
		t.Errorf("custom plans: got %d, want at least 100", custom)
	}
	if generic := f.queryInt(`SELECT sum(generic_plans) ` + statements); generic != 0 {
		t.Errorf("generic plans: got %d, want 0", generic)
	}
}

// TestReadContinuesAfterAHole checks that a reader is given the events after a hole,
// however wide it is, instead of none as at the journal's end.
func TestReadContinuesAfterAHole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.useSmallPartitions()
	f.addPartitions(1000)
	f.insertAdjustments(900)
	f.exec(`DELETE FROM events WHERE seq BETWEEN 11 AND 700`)
	found, err := ReadEvents(context.WithoutCancel(f.ctx), f.db, "main", 10, 50)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 50 {
		t.Fatalf("read after seq 10: got %d events, want 50", len(found))
	}
	if got := found[0].Seq; got != 701 {
		t.Errorf("read after seq 10: got the first seq %d, want 701", got)
	}
}
