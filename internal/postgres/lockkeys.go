package postgres

// LockKey is an SQL expression: the number of the advisory lock whose name is $1. The
// schema is part of the number, so two installations in one database do not block each
// other. Processes of different versions must compute the same number, so this expression
// never changes.
//
// Every advisory lock of ours has such a name, and no two uses share one:
//
//	journal/<pool>          lease: appends a pool's stream to its journal
//	reader/<reader>/<pool>  lease: a reader of a pool's journal, such as a projection
//	others                  leases for audits, rebuilds and restoring Redis; their
//	                        packages have the names
//	parts                   adding, detaching or attaching partitions of the journal
//	tables/<projection>     creating a projection's tables
const LockKey = `hashtextextended('stockstream/' || current_schema() || '/' || $1, 0)`

// PartitionsLock names the lock for adding, detaching or attaching partitions of the
// journal.
const PartitionsLock = "parts"

// TablesLock names the lock for creating a projection's tables.
func TablesLock(projection string) string { return "tables/" + projection }
