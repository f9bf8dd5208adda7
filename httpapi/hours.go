package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/projections"
)

// HoursAnswer is the hourly activity of a SKU from the read table. From and To are the
// bounds of the request, or their defaults, widened to whole hours. Hours without
// activity are left out.
type HoursAnswer struct {
	SKU   string       `json:"sku"`
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to"`
	Hours []HourAnswer `json:"hours"`
}

// HourAnswer counts the units of a SKU that were reserved, sold, cancelled and expired
// within the hour that begins at Hour.
type HourAnswer struct {
	Hour      time.Time `json:"hour"`
	Reserved  int64     `json:"reserved"`
	Sold      int64     `json:"sold"`
	Cancelled int64     `json:"cancelled"`
	Expired   int64     `json:"expired"`
}

const (
	hoursMax     = 31 * 24 // the longest range of a request
	hoursDefault = 24      // the range if a request gives no bounds
)

// getHours serves GET /stock/{sku}/hours?from=…&to=…: the hours that begin at from or
// later, and before to.
func (a *api) getHours(c *gin.Context) error {
	from, to, err := hoursRange(c, time.Now())
	if err != nil {
		return err
	}
	sku := c.Param("sku")
	var f commands.Faults
	if f.SKU("sku", sku); f.Err() != nil {
		return f.Err()
	}
	ctx, cancel := readContext(c)
	defer cancel()
	found, err := projections.FindSKUHours(ctx, a.Postgres, a.Pool.Name(), sku, from, to)
	if err != nil {
		return readError(err, codeUnknownSKU, "no such SKU in the read tables")
	}
	answer := HoursAnswer{
		SKU:   sku,
		From:  from,
		To:    to,
		Hours: make([]HourAnswer, len(found)),
	}
	for i, h := range found {
		answer.Hours[i] = HourAnswer{
			Hour:      h.Hour.UTC(),
			Reserved:  h.Reserved,
			Sold:      h.Sold,
			Cancelled: h.Cancelled,
			Expired:   h.Expired,
		}
	}
	return a.write(c, http.StatusOK, answer)
}

// hoursRange returns the bounds of a request in whole hours. Without to, the range ends
// with the present hour; without from, it begins a day before its end.
func hoursRange(c *gin.Context, now time.Time) (from, to time.Time, err error) {
	if to, err = timeParam(c, "to", now); err != nil {
		return from, to, err
	}
	to = to.Add(time.Hour - time.Nanosecond).Truncate(time.Hour)
	if from, err = timeParam(c, "from", to.Add(-hoursDefault*time.Hour)); err != nil {
		return from, to, err
	}
	from = from.Truncate(time.Hour)
	switch {
	case !from.Before(to):
		return from, to, invalid("from", "must lie before to")
	case to.Sub(from) > hoursMax*time.Hour:
		return from, to, invalid("from", fmt.Sprintf("must lie within %d days before to", hoursMax/24))
	}
	return from, to, nil
}

// timeParam returns a time from the query string, or the default if it is not given.
func timeParam(c *gin.Context, name string, defaultTime time.Time) (time.Time, error) {
	value := c.Query(name)
	if value == "" {
		return defaultTime.UTC(), nil
	}
	const yearMax = 9998 // encoding/json writes years up to 9999, and bounds are rounded up
	at, err := time.Parse(time.RFC3339, value)
	at = at.UTC()
	if err != nil || at.Year() < 1970 || at.Year() > yearMax {
		return at, invalid(name, "must be a time such as 2026-11-24T14:00:00Z")
	}
	return at, nil
}
