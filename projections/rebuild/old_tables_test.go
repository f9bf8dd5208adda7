package rebuild

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// failingOn is a projection that stores the events of holds, and fails on every hold
// whose id begins with prefix.
func failingOn(prefix string) projections.Projection {
	return projections.Projection{
		Name:   "failing",
		Tables: []string{"failing"},
		Key:    projections.ByHold,
		Schema: `CREATE TABLE IF NOT EXISTS failing (seq bigint PRIMARY KEY, hold_id text NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed},
		Apply: projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
			if strings.HasPrefix(e.HoldID, prefix) {
				return errors.New("hold is refused by the test")
			}
			sql.Queue(`INSERT INTO failing VALUES ($1, $2)`, e.Seq, e.HoldID)
			return nil
		}),
	}
}

// deadLetters returns the seq, status and attempts of each dead letter of failingOn, as
// text.
func (f *fixture) deadLetters() string {
	f.t.Helper()
	letters, err := deadletters.List(f.ctx, f.db, deadletters.Filter{Source: "failing"})
	if err != nil {
		f.t.Fatal(err)
	}
	text := ""
	for _, l := range letters {
		text += fmt.Sprintf("%d %s %d;", l.Seq, l.Status, l.Attempts)
	}
	return text
}

// TestRestoreOldSwapsRowsCheckpointAndDeadLetters rebuilds with a handler that fails on
// other events than the one before, restores the old tables, and restores again. Each
// time, rows, checkpoint and dead letters are swapped together, and the worker catches up
// from there.
func TestRestoreOldSwapsRowsCheckpointAndDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(created("a", 1), created("b", 1), confirmed("b", 1), created("c", 1), confirmed("c", 1))
	f.project(failingOn("b")) // parks seq 2 and 3
	if got, want := f.deadLetters(), "2 parked 1;3 parked 1;"; got != want {
		t.Fatalf("letters before the rebuild: got %s, want %s", got, want)
	}
	config := f.rebuildConfig()
	config.AcceptDifferences = true
	results, err := f.rebuild(config, failingOn("c")) // parks seq 4 and 5
	if err != nil {
		t.Fatal(err)
	}
	wantResult := Result{
		Projection: "failing",
		Seq:        5,
		Resolved:   2,
		Parked:     2,
	}
	if len(results) != 1 || results[0] != wantResult {
		t.Fatalf("results: got %+v, want only %+v", results, wantResult)
	}
	want := func(when, letters, rows string) {
		t.Helper()
		if got := f.deadLetters(); got != letters {
			t.Errorf("letters %s: got %s, want %s", when, got, letters)
		}
		if got := strings.ReplaceAll(f.tableText(f.liveSchema(), "failing"), "\n", " "); got != rows {
			t.Errorf("rows %s: got %s, want %s", when, got, rows)
		}
	}
	want("after the rebuild", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;", "(1,a) (2,b) (3,b)")

	f.appendEvents(created("d", 1), created("c2", 1))
	f.project(failingOn("c"))
	want("after more events", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;7 parked 1;",
		"(1,a) (2,b) (3,b) (6,d)")

	result, err := RestoreOld(f.ctx, f.rebuildConfig(), failingOn("b"))
	if err != nil {
		t.Fatal(err)
	}
	if result.Seq != 5 {
		t.Fatalf("restore-old: got seq %d, want 5", result.Seq)
	}
	want("after restore-old", "2 parked 1;3 parked 1;4 resolved 1;5 resolved 1;7 resolved 1;",
		"(1,a) (4,c) (5,c)")
	f.project(failingOn("b"))
	want("after restore-old and catching up",
		"2 parked 1;3 parked 1;4 resolved 1;5 resolved 1;7 resolved 1;", "(1,a) (4,c) (5,c) (6,d) (7,c2)")

	if result, err = RestoreOld(f.ctx, f.rebuildConfig(), failingOn("c")); err != nil {
		t.Fatal(err)
	}
	if result.Seq != 7 {
		t.Fatalf("restore-old again: got seq %d, want 7", result.Seq)
	}
	want("after restore-old again", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;7 parked 1;",
		"(1,a) (2,b) (3,b) (6,d)")

	if err := DropOld(f.ctx, f.rebuildConfig(), failingOn("c")); err != nil {
		t.Error(err)
	}
	if err := DropOld(f.ctx, f.rebuildConfig(), failingOn("c")); !errors.Is(err, ErrNoOldTables) {
		t.Errorf("drop-old again: got %v, want ErrNoOldTables", err)
	}
	if _, err := RestoreOld(f.ctx, f.rebuildConfig(), failingOn("c")); !errors.Is(err, ErrNoOldTables) {
		t.Errorf("restore-old after drop-old: got %v, want ErrNoOldTables", err)
	}
}

// TestLetterThatFailsAgainStaysParked checks that a letter whose event fails in the
// rebuild too stays parked, with one more attempt.
func TestLetterThatFailsAgainStaysParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(created("a", 1), created("b", 1), confirmed("b", 1))
	f.project(failingOn("b"))
	results, err := f.rebuild(f.rebuildConfig(), failingOn("b"))
	if err != nil {
		t.Fatal(err)
	}
	if got := results[0].Resolved; got != 0 {
		t.Errorf("got %d resolved letters, want 0", got)
	}
	if got := results[0].Parked; got != 2 {
		t.Errorf("got %d parked letters, want 2", got)
	}
	if got, want := f.deadLetters(), "2 parked 2;3 parked 2;"; got != want {
		t.Errorf("letters: got %s, want %s", got, want)
	}
}

// TestRunningWorkerContinuesAtRestoredCheckpoint checks that an idle live worker notices
// that RestoreOld moved its checkpoint back, catches up from there, and does not report a
// hole.
func TestRunningWorkerContinuesAtRestoredCheckpoint(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.Holds())
	if _, err := f.rebuild(f.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	workers, _ := f.runWorkers(projections.Holds())
	f.appendEvents(holdEvents("b", 10)...)
	f.awaitLevel(projections.Holds())
	result, err := RestoreOld(f.ctx, f.rebuildConfig(), projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	if result.Seq >= f.seq {
		t.Fatalf("restore-old: got seq %d, want it below %d", result.Seq, f.seq)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := workers[0].Status()
		if strings.Contains(status.Error, journal.ErrHole.Error()) {
			t.Fatal(status.Error)
		}
		checkpoint := f.queryText(`SELECT seq FROM checkpoints WHERE projection = 'holds'`)
		return checkpoint == fmt.Sprint(f.seq), fmt.Sprintf("%+v", status)
	})
	f.wantSameAsReplay(projections.Holds())
}

// TestRestoreOldIsRefusedIfJournalLacksEvents checks that RestoreOld fails, and changes
// nothing, if the journal lacks the event after the checkpoint of the old tables.
func TestRestoreOldIsRefusedIfJournalLacksEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 10)...)
	f.project(projections.Holds())
	if _, err := f.rebuild(f.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	f.appendEvents(holdEvents("b", 10)...)
	f.project(projections.Holds())
	before := f.tableText(f.liveSchema(), "holds")
	f.exec(`DELETE FROM events WHERE seq < (SELECT max(seq) FROM events)`)
	if _, err := RestoreOld(f.ctx, f.rebuildConfig(), projections.Holds()); !errors.Is(err, journal.ErrHole) {
		t.Errorf("got %v, want ErrHole", err)
	}
	if f.tableText(f.liveSchema(), "holds") != before {
		t.Error("a refused restore-old changed the live table")
	}
	all, err := Describe(f.ctx, f.db, "main", projections.Holds())
	if err != nil {
		t.Fatal(err)
	}
	if all[0].Old == nil {
		t.Errorf("got %+v, want the old tables still kept", all[0])
	}
	if all[0].Run == nil {
		t.Errorf("got %+v, want the latest rebuild in it", all[0])
	}
}
