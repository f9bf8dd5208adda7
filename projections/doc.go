// Package projections turns the journal into read tables.
//
// A projection is a name, the tables it owns, the events it wants, the key by which its events must stay in order, and
// a way to apply a batch. Everything else is the engine's: one Watermill handler per projection receives the journal
// in order and in batches, drops what was applied before, applies the rest, and moves the checkpoint, all in one
// transaction. What cannot be applied is parked as a dead letter, together with later events of the same key, while
// the rest flows.
//
// To add a projection, write a file like sku_hours.go and a line in BuiltIn. It makes its tables and catches up from the
// first event by itself, and TestLaws holds it to the laws of projectiontest. docs/how-to-add-a-projection.md goes
// through it. The package imports events and deadletters only.
package projections
