package projections

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// Projection is a read model of the journal. SQL in Apply uses unqualified table names.
type Projection struct {
	Name string
	// Tables are the tables it owns: it alone writes them, and they hold nothing but what it wrote.
	Tables []string
	// Schema makes the tables, with CREATE TABLE IF NOT EXISTS and CREATE INDEX IF NOT EXISTS under unqualified names.
	// It is run where the tables are not there; see CreateTables.
	Schema string
	// Wants are the event types that Apply is given.
	Wants []events.Type
	// Key is the sequence key: events of one key are applied in order or not at all, so that when one is parked,
	// later ones of its key wait behind it. It must work for an event that cannot be decoded, too.
	Key func(*events.Envelope) string
	// Apply writes a batch within the transaction. An error parks events (after a bisection found which), unless
	// Postgres or the connection is to blame. Apply may therefore be called again with a part of the batch, after
	// its writes were rolled back; it must have no effects beside those writes.
	Apply func(ctx context.Context, tx pgx.Tx, batch []Event) error
}

// Event is an event of the journal with its payload decoded.
type Event struct {
	*events.Envelope
	Payload events.Event // *events.HoldCreated and so on
}

// BuiltIn returns the projections that every installation runs. The lines here are the registration.
func BuiltIn() []Projection {
	return []Projection{
		Holds(),
		Orders(),
		StockLevels(),
		SKUHours(),
	}
}

// ByHold is the sequence key of read models with a row per hold.
func ByHold(e *events.Envelope) string { return e.HoldID }

// BySKU is the sequence key of read models with a row per SKU.
func BySKU(e *events.Envelope) string { return e.SKU }

// PerEvent makes an Apply of a function that queues the SQL for one event. The statements of a batch travel to
// Postgres together. It is the easy way to write a projection; folding a batch in memory and writing sets is the fast
// one.
func PerEvent(queue func(e Event, sql *pgx.Batch) error) func(context.Context, pgx.Tx, []Event) error {
	return func(ctx context.Context, tx pgx.Tx, batch []Event) error {
		var sql pgx.Batch
		for _, e := range batch {
			if err := queue(e, &sql); err != nil {
				return fmt.Errorf("%s at seq %d: %w", e.Type, e.Seq, err)
			}
		}
		if sql.Len() == 0 {
			return nil
		}
		return tx.SendBatch(ctx, &sql).Close()
	}
}

func (p Projection) wants(t events.Type) bool { return slices.Contains(p.Wants, t) }

// Names returns the names of projections, in their order.
func Names(list []Projection) []string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	return names
}

// Named returns built-in projections by their names.
func Named(wanted ...string) ([]Projection, error) {
	all := BuiltIn()
	list := make([]Projection, 0, len(wanted))
	for _, name := range wanted {
		at := slices.IndexFunc(all, func(p Projection) bool { return p.Name == name })
		switch {
		case at < 0:
			return nil, fmt.Errorf("%w %q: there are %s", ErrUnknownProjection, name, strings.Join(Names(all), ", "))
		case slices.ContainsFunc(list, func(p Projection) bool { return p.Name == name }):
			return nil, fmt.Errorf("projection %q is named twice", name)
		}
		list = append(list, all[at])
	}
	return list, nil
}

// ErrUnknownProjection is returned for a name that no projection has.
var ErrUnknownProjection = errors.New("unknown projection")
