package audit

import "time"

// hourKey is the key of a row of sku_hours.
type hourKey struct {
	sku  string
	hour int64 // hours since 1970
}

func (k hourKey) time() time.Time { return time.Unix(k.hour*3600, 0).UTC() }

func (k hourKey) String() string { return k.sku + " " + k.time().Format(time.RFC3339) }

// hourUnits are the units in a row of sku_hours, by column.
type hourUnits [4]int64

// The columns of hourUnits.
const (
	hourReserved = iota
	hourSold
	hourCancelled
	hourExpired
)

// hours are the units per SKU and hour as the journal has them.
//
// An hour is complete once the journal has an event of two hours later. Its rows are then
// compared, and forgotten if they agree. Rows that differ are kept until the audit's end:
// a later event may still belong to the hour, if Redis's clock was set back.
type hours struct {
	units           map[hourKey]*hourUnits
	firstIncomplete int64 // the first hour that is not complete
	latest          int64 // the latest hour of any event
	forgotten       int64 // how many rows were compared and forgotten
	lateEvent       bool  // an event arrived for a forgotten hour, or for one complete before the audit began
}

func newHours() *hours { return &hours{units: map[hourKey]*hourUnits{}} }

func (h *hours) add(event *journalEvent, column int) {
	key := hourKey{sku: event.sku, hour: event.atMs / time.Hour.Milliseconds()}
	units := h.units[key]
	if units == nil {
		if key.hour < h.firstIncomplete {
			h.lateEvent = true
			return
		}
		units = new(hourUnits)
		h.units[key] = units
	}
	units[column] += event.qty
	h.latest = max(h.latest, key.hour)
}

// takeComplete returns the keys of all complete hours, if another hour has become
// complete since the last call. Rows that differed at an earlier call are among them.
func (h *hours) takeComplete() (keys []hourKey) {
	firstIncomplete := h.latest - 1
	if firstIncomplete <= h.firstIncomplete {
		return nil
	}
	for key := range h.units {
		if key.hour < firstIncomplete {
			keys = append(keys, key)
		}
	}
	h.firstIncomplete = firstIncomplete
	return keys
}

func (h *hours) forget(key hourKey) {
	delete(h.units, key)
	h.forgotten++
}

// rowCount returns how many rows sku_hours should have, and whether that number is exact.
func (h *hours) rowCount() (count int64, exact bool) {
	return h.forgotten + int64(len(h.units)), !h.lateEvent
}

// hourColumn returns the column that counts the units of a hold that ended.
func hourColumn(status string) int {
	switch status {
	case statusConfirmed:
		return hourSold
	case statusExpired:
		return hourExpired
	}
	return hourCancelled
}
