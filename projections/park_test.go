package projections

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/stockstream/stockstream/events"
)

// TestFailingEventIsParkedWithItsKey checks that an event that fails is parked with the
// later ones of its key, and that all other events are applied, with batches of any size.
func TestFailingEventIsParkedWithItsKey(t *testing.T) {
	t.Parallel()
	failures := map[string]func() error{
		"an error":        func() error { return errors.New("cannot be") },
		"a panic":         func() error { panic("cannot be") },
		"bad data":        func() error { return &pgconn.PgError{Code: "22003", Message: "cannot be"} },
		"a wrapped error": func() error { return fmt.Errorf("deep: %w", errors.New("cannot be")) },
	}
	for name, failure := range failures {
		for _, batchMax := range []int{1, 4, 100} {
			t.Run(fmt.Sprintf("%s, batches of %d", name, batchMax), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t)
				f.journal(
					created("a", 1),
					created("bad", 1),
					created("c", 1),
					confirmed("a", 1),
					confirmed("bad", 1),
					cancelled("c", 1, "requested"),
				)
				projection := f.notes(func(e Event) error {
					if e.HoldID == "bad" {
						return failure()
					}
					return nil
				})
				f.run(batchMax, projection)
				f.await(projection)

				f.wantRows("notes", "(1,a)\n(3,c)\n(4,a)\n(6,c)")
				letters := f.wantParked("notes", 2, 5)
				if !strings.Contains(letters[0], "cannot be") {
					t.Errorf("letter of event 2: got error %q, want the error of Apply", letters[0])
				}
				if !strings.Contains(letters[1], "waits behind") {
					t.Errorf("letter of event 5: got error %q, want that it waits behind event 2", letters[1])
				}
				var stack string
				const query = `SELECT stack FROM dead_letters WHERE seq = 2`
				if err := f.db.QueryRow(f.ctx, query).Scan(&stack); err != nil {
					t.Fatal(err)
				}
				if wantStack := name == "a panic"; wantStack != (stack != "") {
					t.Errorf("letter of event 2: got stack %q, want one: %t", stack, wantStack)
				}
			})
		}
	}
}

// TestUnreadableEventsAreParked checks that events of an unknown type and events with an
// incomplete payload are parked, and that an event of a known type that the projection
// does not want is skipped.
func TestUnreadableEventsAreParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.journal(created("a", 1), adjusted(1))
	f.journalRaw("HOLD_TRANSFERRED", `{"hold_id":"a","sku":"shirt"}`)
	f.journalRaw(events.TypeHoldCreated, `{"hold_id":"x"}`)
	f.journalRaw(events.TypeHoldCreated, `null`)
	f.journal(confirmed("a", 1), created("b", 1))
	projection := f.notes(neverFails)
	f.run(0, projection)
	f.await(projection)
	f.wantRows("notes", "(1,a)\n(7,b)")
	f.wantParked("notes", 3, 4, 5, 6) // event 6 waits behind event 3
}
