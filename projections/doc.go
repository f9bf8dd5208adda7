// Package projections turns the journal into read tables.
//
// A projection has a name, the tables it owns, the event types it wants, the sequence key
// by which its events must stay in order, and a function that applies a batch of events.
// The engine does the rest. Each projection has one Watermill handler, which receives the
// journal in order and in batches. For each batch it opens a transaction and
//
//  1. drops the events that the checkpoint already accounts for (dedup.go),
//  2. applies the remaining events; an event that cannot be applied is parked as a dead
//     letter, together with the later events of its sequence key (park.go),
//  3. moves the checkpoint.
//
// To add a projection, write one file such as sku_hours.go and add one line to BuiltIn.
// The engine creates its tables and applies the journal from the first event; TestLaws
// checks it against the laws of projectiontest. See docs/how-to-add-a-projection.md. The
// package imports events, events/journal and deadletters only.
package projections
