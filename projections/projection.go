package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// Projection is a read model of the journal. SQL in Schema and Apply uses unqualified
// table names, so that a rebuild can run it in another schema.
type Projection struct {
	// Name identifies the projection's checkpoint and its dead letters. Never change it.
	Name string
	// Tables are the tables that the projection owns. It alone writes to them.
	Tables []string
	// Schema creates the tables, with CREATE TABLE IF NOT EXISTS and CREATE INDEX IF NOT
	// EXISTS. It runs if none of the tables exists; see CreateTables.
	Schema string
	// Upgrades change the tables that an older build created, in this order.
	Upgrades []Upgrade
	// Wants are the types of the events that Apply receives.
	Wants []events.Type
	// Key returns the sequence key of an event. Events of one key are applied in order:
	// if one is parked, the later ones of its key are parked behind it. Key must also
	// work for an event whose payload cannot be decoded.
	Key func(*events.Envelope) string
	// Apply writes a batch in the given transaction. An error parks events, unless
	// Postgres or the connection caused it: the engine then bisects the batch to find the
	// events that cannot be applied. Apply is therefore called again with the batch or a
	// part of it, after its writes were rolled back, and must have no effect but its
	// writes.
	Apply func(ctx context.Context, tx pgx.Tx, batch []Event) error
}

// Event is an event of the journal with its payload decoded.
type Event struct {
	*events.Envelope
	Payload events.Event // *events.HoldCreated, *events.HoldConfirmed, …
}

// BuiltIn returns the projections that every installation runs. A projection is
// registered by its line here.
func BuiltIn() []Projection {
	return []Projection{
		Holds(),
		Orders(),
		StockLevels(),
		SKUHours(),
	}
}

// ByHold is the sequence key of read tables with one row per hold.
func ByHold(e *events.Envelope) string { return e.HoldID }

// BySKU is the sequence key of read tables with one row per SKU.
func BySKU(e *events.Envelope) string { return e.SKU }

// PerEvent makes an Apply from a function that queues the SQL for one event. The
// statements of a batch are sent to Postgres together. This is the easy way to write a
// projection. The fast way adds a batch up in memory and writes each row once.
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

// Names returns the names of the projections in list, in the same order.
func Names(list []Projection) []string {
	names := make([]string, len(list))
	for i, p := range list {
		names[i] = p.Name
	}
	return names
}

// Named returns the built-in projections with the given names. It refuses an unknown name
// and a name given twice.
func Named(names ...string) ([]Projection, error) {
	builtIn := BuiltIn()
	list := make([]Projection, 0, len(names))
	for _, name := range names {
		hasName := func(p Projection) bool { return p.Name == name }
		i := slices.IndexFunc(builtIn, hasName)
		if i < 0 {
			known := strings.Join(Names(builtIn), ", ")
			return nil, fmt.Errorf("unknown projection %q: the projections are %s", name, known)
		}
		if slices.ContainsFunc(list, hasName) {
			return nil, fmt.Errorf("projection %q is named twice", name)
		}
		list = append(list, builtIn[i])
	}
	return list, nil
}
