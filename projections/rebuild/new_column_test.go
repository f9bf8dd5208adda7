package rebuild

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections"
)

// heldUnitsWithUser is a version of heldUnits whose table has a column for the user.
func heldUnitsWithUser() projections.Projection {
	p := heldUnits(1)
	p.Schema = `CREATE TABLE IF NOT EXISTS held_units (hold_id text PRIMARY KEY, units bigint NOT NULL, user_id text NOT NULL)`
	p.Apply = projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
		hold := e.Payload.(*events.HoldCreated)
		sql.Queue(`INSERT INTO held_units (hold_id, units, user_id) VALUES ($1, $2, $3)`,
			e.HoldID, hold.Qty, hold.UserID)
		return nil
	})
	return p
}

// TestRebuildAddsColumn deploys a projection whose table gets another column. Its live
// worker cannot write to the old table: it stalls and reports the error, but parks and
// loses no event. A rebuild does not wait for the stalled worker. After the swap the
// worker continues.
func TestRebuildAddsColumn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	f.appendEvents(holdEvents("b", 20)...)
	workers, _ := f.runWorkers(heldUnitsWithUser())
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		message := workers[0].Status().Error
		return strings.Contains(message, `column "user_id"`), message
	})
	f.appendEvents(holdEvents("c", 20)...)

	config := f.rebuildConfig()
	config.AcceptDifferences = true
	config.Watched = []projections.Projection{heldUnitsWithUser()}
	if _, err := f.rebuild(config, heldUnitsWithUser()); err != nil {
		t.Fatal(err)
	}
	f.awaitLevel(heldUnitsWithUser())
	f.appendEvents(holdEvents("d", 20)...)
	f.awaitLevel(heldUnitsWithUser())
	const summary = `SELECT count(*) || ' ' || count(DISTINCT hold_id) || ' ' || min(user_id) FROM held_units`
	if got := f.queryText(summary); got != "80 80 ann" {
		t.Errorf("got %s, want 80 rows of 80 holds, by ann", got)
	}
	if letters := f.queryText(`SELECT count(*) FROM dead_letters`); letters != "0" {
		t.Errorf("got %s parked events, want 0", letters)
	}
}
