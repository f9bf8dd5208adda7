// Package rebuild makes read tables anew from the journal while the old ones serve, and puts them in their place.
//
// A projection's SQL names its tables without a schema. A session whose search_path begins with a shadow schema
// therefore runs the very same handler against shadow tables, with a checkpoint and dead letters of their own beside
// them, while the journal is found further down the path. A rebuild replays the journal so until the shadow is level
// with the live tables, compares the two at the same position, and exchanges them in one short transaction. The old
// tables are kept until DropOld; RestoreOld exchanges them back.
//
// Killed at any moment, it has changed nothing that serves, or has finished: what it leaves is dropped by the next.
package rebuild
