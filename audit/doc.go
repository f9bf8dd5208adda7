// Package audit compares Redis, the stream and the read tables with the journal, and so
// proves that no event and no unit of stock was lost.
//
// An audit applies the journal's events to an empty state in memory. The result is the
// expected state: the content that every other store should have. An audit writes no
// tables but its own (audits, audit_skus, audit_holds, audit_hours).
//
// Commands and projections continue during an audit, so each key is compared at one exact
// seq:
//
//  1. A read returns the seq at which it was made. A Lua script (read.lua) reads some
//     keys of Redis together with the seq of the log head. A read-only transaction reads
//     rows of a read table together with its projection's checkpoint.
//  2. The audit applies further events until the expected state has reached that seq.
//  3. It compares the keys that were read with the expected state.
//
// A hold that has ended never changes again, so it may be compared at any seq after its
// end.
//
// An audit that finds no difference saves the expected state; its seq is the verified
// seq. The next audit starts there. It compares every key that has changed since, and a
// bounded number of keys that have not, in turn. A full audit starts at seq 0 instead,
// compares every key, and searches the stores for foreign entries: keys and rows that no
// event accounts for.
//
// Every file redis_….go, stream.go and table_….go compares one thing: it reads it,
// matches it with the expected state and words the difference. To compare another read
// table, write its readTable and add it to readTables.
package audit
