// Package rebuild rebuilds read tables from the journal while the old tables keep
// serving, and then swaps the new tables in.
//
// A projection's SQL names its tables without a schema. A rebuild opens a session whose
// search_path begins with a shadow schema, so the unchanged handler writes to shadow
// tables, with a checkpoint and dead letters of their own. The session still finds the
// journal, because the live schema follows in the path. A rebuild takes these steps:
//
//  1. Take the lease, check that the journal is complete, and create the shadow schema.
//  2. Replay the journal into the shadow tables until they are close to the live tables.
//  3. Compare the shadow tables with the live tables at the same seq.
//  4. Swap the tables, in one short transaction for each projection.
//
// The old tables are kept until DropOld; RestoreOld swaps them back.
//
// A rebuild may be killed at any moment. Each projection then has either its old tables
// or its new ones, and the next rebuild drops the shadow schemas that were left behind.
package rebuild
