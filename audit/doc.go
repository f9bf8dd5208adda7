// Package audit proves that nothing was lost: it folds the journal and compares what comes out with Redis, with the
// stream and with the read tables. It imports events, projections and deadletters, and changes nothing but its own
// tables.
//
// The system runs on while it is audited, so every key is compared at exactly one seq on both sides. A script reads a
// few keys of Redis together with the seq of the log; a snapshot of Postgres reads rows together with their checkpoint;
// the fold is then brought to that very seq. A hold that has ended never changes again, and may be compared at any seq
// after its end.
//
// What was found true is kept, as the fold up to a verified seq. The next audit goes on from there: it looks at what
// has changed since, and at a bounded number of keys that have not, in turn.
package audit
