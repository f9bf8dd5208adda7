package events

import "github.com/google/uuid"

// NewID returns a new UUIDv7 as text. It cannot be guessed, as a hold's id requires, and
// it begins with the time, which keeps large indexes compact. Make one per command,
// before any step that may be retried.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// OrderID returns the id of the order that confirming a hold creates. A hold becomes at
// most one order, so the id is derived from the hold's: every retry and every replay
// gives the same one.
func OrderID(holdID string) string { return "ord_" + holdID }
