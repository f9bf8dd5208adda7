package events

import "github.com/google/uuid"

// NewID returns a fresh UUIDv7 in its text form: unguessable enough for a hold, and ordered by time, which keeps the
// indexes that hold millions of them compact. It is made once per command, before anything that may be retried.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// OrderID names the order that confirming a hold makes. A hold becomes at most one order, so the name is derived
// rather than minted: every retry and every replay arrives at the same one.
func OrderID(holdID string) string { return "ord_" + holdID }
