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

// heldUnitsWithUser is counting in a new shape.
func heldUnitsWithUser() projections.Projection {
	p := heldUnits(1)
	p.Schema = `CREATE TABLE IF NOT EXISTS counting (hold_id text PRIMARY KEY, units bigint NOT NULL, user_id text NOT NULL)`
	p.Apply = projections.PerEvent(func(e projections.Event, sql *pgx.Batch) error {
		made := e.Payload.(*events.HoldCreated)
		sql.Queue(`INSERT INTO counting (hold_id, units, user_id) VALUES ($1, $2, $3)`, e.HoldID, made.Qty, made.UserID)
		return nil
	})
	return p
}

// TestNewShape deploys a projection whose table has got another column. Its line cannot write the old table: it stands,
// and says why, and neither parks nor loses an event. A rebuild, which does not wait for it, brings the table, and the
// line goes on.
func TestNewShape(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.journal(holdEvents("a", 20)...)
	p.project(heldUnits(1))
	p.journal(holdEvents("b", 20)...)
	lines, _ := p.runWorkers(heldUnitsWithUser())
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		fault := lines[0].Status().Error
		return strings.Contains(fault, `column "user_id"`), fault
	})
	p.journal(holdEvents("c", 20)...)

	config := p.rebuildConfig()
	config.AcceptDifferences = true
	config.Watched = []projections.Projection{heldUnitsWithUser()}
	if _, err := p.rebuild(config, heldUnitsWithUser()); err != nil {
		t.Fatal(err)
	}
	p.awaitLevel(heldUnitsWithUser())
	p.journal(holdEvents("d", 20)...)
	p.awaitLevel(heldUnitsWithUser())
	if got := p.queryText(`SELECT count(*) || ' ' || count(DISTINCT hold_id) || ' ' || min(user_id) FROM counting`); got != "80 80 ann" {
		t.Errorf("got %s, want 80 rows of 80 holds, by ann", got)
	}
	if letters := p.queryText(`SELECT count(*) FROM dead_letters`); letters != "0" {
		t.Errorf("%s events were parked, want none", letters)
	}
}
