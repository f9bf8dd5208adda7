package events

// HoldStatus is the status of a hold, the same word in Redis, in the answers to commands,
// and in the read tables.
type HoldStatus string

// The statuses of a hold. Only an active hold can change its status.
const (
	StatusActive    HoldStatus = "ACTIVE"
	StatusConfirmed HoldStatus = "CONFIRMED" // it became an order
	StatusCancelled HoldStatus = "CANCELLED" // by a shopper
	StatusExpired   HoldStatus = "EXPIRED"   // by the saga, after its deadline
)

// CancelledStatus returns the status of a hold that a HOLD_CANCELLED with this reason
// ended.
func CancelledStatus(reason string) HoldStatus {
	if reason == ReasonExpired {
		return StatusExpired
	}
	return StatusCancelled
}
