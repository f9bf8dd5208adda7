package audit

import "time"

// hourKey names a row of sku_hours. Its hour is counted since 1970.
type hourKey struct {
	sku  string
	hour int64
}

func (k hourKey) time() time.Time { return time.Unix(k.hour*3600, 0).UTC() }

func (k hourKey) String() string { return k.sku + " " + k.time().Format(time.RFC3339) }

// hourUnits are the units of such a row, by the columns below.
type hourUnits [4]int64

const (
	hourReserved = iota
	hourSold
	hourCancelled
	hourExpired
)

// hours is what the journal says of units per SKU and hour. Time goes on with the journal, so an hour is over when the
// journal is two hours past it; then it is compared and let go. One that differs is kept until the end, since an event
// may yet come whose clock was behind.
type hours struct {
	units   map[hourKey]*hourUnits
	floor   int64 // the first hour that is not over
	latest  int64
	dropped int64 // compared, and let go
	late    bool  // an event came for an hour that was let go, or that was over before the audit began
}

func newHours() *hours { return &hours{units: map[hourKey]*hourUnits{}} }

func (h *hours) add(r *journalEvent, column int) {
	key := hourKey{r.sku, r.atMs / time.Hour.Milliseconds()}
	units := h.units[key]
	if units == nil {
		if key.hour < h.floor {
			h.late = true
			return
		}
		units = new(hourUnits)
		h.units[key] = units
	}
	units[column] += r.qty
	h.latest = max(h.latest, key.hour)
}

// over returns the rows of hours that are over, when another one is: those that were kept are due for another look.
func (h *hours) over() (keys []hourKey) {
	floor := h.latest - 1
	if floor <= h.floor {
		return nil
	}
	for key := range h.units {
		if key.hour < floor {
			keys = append(keys, key)
		}
	}
	h.floor = floor
	return keys
}

func (h *hours) drop(key hourKey) {
	delete(h.units, key)
	h.dropped++
}

// hourColumn is the column in which a hold that ended counts.
func hourColumn(status string) int {
	switch status {
	case statusConfirmed:
		return hourSold
	case statusExpired:
		return hourExpired
	}
	return hourCancelled
}
