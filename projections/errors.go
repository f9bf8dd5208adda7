package projections

import "errors"

var (
	// ErrNotFound is returned by a query whose row does not exist, or not yet.
	ErrNotFound = errors.New("not found")
	// ErrTableMissing is returned by a query of a read table that does not exist yet. Its
	// projection creates the table when it first runs.
	ErrTableMissing = errors.New("the read table does not exist yet")
)
