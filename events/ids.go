package events

import "github.com/google/uuid"

// NewID returns a new UUIDv7 as text. It cannot be guessed, as a hold's id requires, and
// it begins with the time, which keeps large indexes compact. Make one per command,
// before any step that may be retried.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// NewHoldID returns the id of a new hold: "H-" and a UUIDv7 in the pool main,
// "H-<pool>-" and a UUIDv7 in any other. So the id alone tells the pool of its hold.
// Holds of older builds have a UUID without a prefix, and stay valid.
func (p Pool) NewHoldID() string {
	if p.name == MainPool.name { // also on a cluster, where its keys differ
		return "H-" + NewID()
	}
	return "H-" + p.name + "-" + NewID()
}

// OrderID returns the id of the order that confirming a hold creates. A hold becomes at
// most one order, so the id is derived from the hold's: every retry and every replay
// gives the same one.
func OrderID(holdID string) string { return "ord_" + holdID }
