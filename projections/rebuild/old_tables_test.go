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
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// failingOn is a projection that cannot apply the holds whose id begins with a prefix; "" for none.
func failingOn(prefix string) projections.Projection {
	return projections.Projection{
		Name: "choosy", Tables: []string{"choosy"}, Key: projections.ByHold,
		Schema: `CREATE TABLE IF NOT EXISTS choosy (seq bigint PRIMARY KEY, hold_id text NOT NULL)`,
		Wants:  []events.Type{events.TypeHoldCreated, events.TypeHoldConfirmed},
		Apply: projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
			if prefix != "" && strings.HasPrefix(e.HoldID, prefix) {
				return errors.New("cannot be")
			}
			sql.Queue(`INSERT INTO choosy VALUES ($1, $2)`, e.Seq, e.HoldID)
			return nil
		}),
	}
}

// deadLetters returns the projection's dead letters as text.
func (p *fixture) deadLetters() string {
	p.t.Helper()
	letters, err := deadletters.List(p.ctx, p.db, deadletters.Filter{Source: "choosy"})
	if err != nil {
		p.t.Fatal(err)
	}
	text := ""
	for _, l := range letters {
		text += fmt.Sprintf("%d %s %d;", l.Seq, l.Status, l.Attempts)
	}
	return text
}

// TestThereAndBack rebuilds with a handler that takes other events than the one before, goes back, and forth again.
// Rows, checkpoint and dead letters go together each time, and what came meanwhile is caught up with.
func TestThereAndBack(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(created("a", 1), created("b", 1), confirmed("b", 1), created("c", 1), confirmed("c", 1))
	p.project(failingOn("b")) // parks 2 and 3
	if got, want := p.deadLetters(), "2 parked 1;3 parked 1;"; got != want {
		t.Fatalf("letters before: got %s, want %s", got, want)
	}
	config := p.rebuildConfig()
	config.AcceptDifferences = true
	outcomes, err := p.rebuild(config, failingOn("c")) // parks 4 and 5
	if err != nil || len(outcomes) != 1 || outcomes[0] != (Result{Projection: "choosy", Seq: 5, Resolved: 2, Parked: 2}) {
		t.Fatal(outcomes, err)
	}
	want := func(when, letters, rows string) {
		t.Helper()
		if got := p.deadLetters(); got != letters {
			t.Errorf("letters %s: got %s, want %s", when, got, letters)
		}
		if got := strings.ReplaceAll(p.tableText(p.liveSchema(), "choosy"), "\n", " "); got != rows {
			t.Errorf("rows %s: got %s, want %s", when, got, rows)
		}
	}
	want("after", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;", "(1,a) (2,b) (3,b)")

	p.journal(created("d", 1), created("c2", 1))
	p.project(failingOn("c"))
	want("after more", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;7 parked 1;", "(1,a) (2,b) (3,b) (6,d)")

	outcome, err := RestoreOld(p.ctx, p.rebuildConfig(), failingOn("b"))
	if err != nil || outcome.Seq != 5 {
		t.Fatal(outcome, err)
	}
	want("back", "2 parked 1;3 parked 1;4 resolved 1;5 resolved 1;7 resolved 1;", "(1,a) (4,c) (5,c)")
	p.project(failingOn("b"))
	want("back and caught up", "2 parked 1;3 parked 1;4 resolved 1;5 resolved 1;7 resolved 1;", "(1,a) (4,c) (5,c) (6,d) (7,c2)")

	if outcome, err = RestoreOld(p.ctx, p.rebuildConfig(), failingOn("c")); err != nil || outcome.Seq != 7 {
		t.Fatal(outcome, err)
	}
	want("forth again", "2 resolved 1;3 resolved 1;4 parked 1;5 parked 1;7 parked 1;", "(1,a) (2,b) (3,b) (6,d)")

	if err := DropOld(p.ctx, p.rebuildConfig(), failingOn("c")); err != nil {
		t.Error(err)
	}
	if err := DropOld(p.ctx, p.rebuildConfig(), failingOn("c")); !errors.Is(err, ErrNoOldTables) {
		t.Errorf("drop-old again: got %v, want ErrNoOldTables", err)
	}
	if _, err := RestoreOld(p.ctx, p.rebuildConfig(), failingOn("c")); !errors.Is(err, ErrNoOldTables) {
		t.Errorf("restore-old of nothing: got %v, want ErrNoOldTables", err)
	}
}

// TestParkedAgain holds that a letter which the new run cannot apply either stays parked, and counts the attempt.
func TestParkedAgain(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(created("a", 1), created("b", 1), confirmed("b", 1))
	p.project(failingOn("b"))
	outcomes, err := p.rebuild(p.rebuildConfig(), failingOn("b"))
	if err != nil || outcomes[0].Resolved != 0 || outcomes[0].Parked != 2 {
		t.Fatal(outcomes, err)
	}
	if got, want := p.deadLetters(), "2 parked 2;3 parked 2;"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRunningLineGoesBack holds that a live line which is at rest notices that its checkpoint was put back, and catches
// up from there, and does not call it a hole.
func TestRunningLineGoesBack(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.Holds())
	if _, err := p.rebuild(p.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	lines, _ := p.runWorkers(projections.Holds())
	p.journal(holdEvents("b", 10)...)
	p.awaitLevel(projections.Holds())
	outcome, err := RestoreOld(p.ctx, p.rebuildConfig(), projections.Holds())
	if err != nil || outcome.Seq >= p.seq {
		t.Fatal(outcome, err)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := lines[0].Status()
		if strings.Contains(status.Error, events.ErrHole.Error()) {
			t.Fatal(status.Error)
		}
		return p.queryText(`SELECT seq FROM checkpoints WHERE projection = 'holds'`) == fmt.Sprint(p.seq), fmt.Sprintf("%+v", status)
	})
	p.wantSameAsReplay(projections.Holds())
}

// TestNoWayBack holds that old tables whose next event is no longer in the journal are not put in place.
func TestNoWayBack(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 10)...)
	p.project(projections.Holds())
	if _, err := p.rebuild(p.rebuildConfig(), projections.Holds()); err != nil {
		t.Fatal(err)
	}
	p.journal(holdEvents("b", 10)...)
	p.project(projections.Holds())
	before := p.tableText(p.liveSchema(), "holds")
	p.exec(`DELETE FROM events WHERE seq < (SELECT max(seq) FROM events)`)
	if _, err := RestoreOld(p.ctx, p.rebuildConfig(), projections.Holds()); !errors.Is(err, events.ErrHole) {
		t.Errorf("got %v, want ErrHole", err)
	}
	if p.tableText(p.liveSchema(), "holds") != before {
		t.Error("the live table was changed")
	}
	if all, err := Describe(p.ctx, p.db, "main", projections.Holds()); err != nil || all[0].Old == nil || all[0].Run == nil {
		t.Errorf("got %+v (%v), want the old tables still there", all, err)
	}
}
