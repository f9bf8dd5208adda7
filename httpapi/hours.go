package httpapi

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/stockstream/stockstream/projections"
)

// HoursAnswer is how a SKU went, hour by hour, as the read table has it. From and To are the bounds that were asked for
// or filled in, widened to whole hours. An hour in which nothing happened is left out.
type HoursAnswer struct {
	SKU   string       `json:"sku"`
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to"`
	Hours []HourAnswer `json:"hours"`
}

// HourAnswer is what happened to a SKU's units within one hour, which begins at Hour.
type HourAnswer struct {
	Hour      time.Time `json:"hour"`
	Reserved  int64     `json:"reserved"`
	Sold      int64     `json:"sold"`
	Cancelled int64     `json:"cancelled"`
	Expired   int64     `json:"expired"`
}

const (
	hoursMax     = 31 * 24
	hoursDefault = 24
)

// getHours serves GET /stock/{sku}/hours?from=…&to=…: hours that begin at from or later and before to.
func (a *api) getHours(c *gin.Context) error {
	from, to, err := hoursAsked(c, time.Now())
	if err != nil {
		return err
	}
	sku := cleanText(c.Param("sku"))
	ctx, cancel := readContext(c)
	defer cancel()
	found, err := projections.FindSKUHours(ctx, a.Postgres, sku, from, to)
	if err != nil {
		return readError(err, "UNKNOWN_SKU", "no such SKU in the read tables")
	}
	answer := HoursAnswer{SKU: sku, From: from, To: to, Hours: make([]HourAnswer, len(found))}
	for i, h := range found {
		answer.Hours[i] = HourAnswer{Hour: h.Hour.UTC(), Reserved: h.Reserved, Sold: h.Sold, Cancelled: h.Cancelled, Expired: h.Expired}
	}
	return a.write(c, http.StatusOK, answer)
}

// hoursAsked returns the bounds of a request, in whole hours. Without to, they end with the hour that is now; without
// from, they begin a day before they end.
func hoursAsked(c *gin.Context, now time.Time) (from, to time.Time, err error) {
	if to, err = timeAsked(c, "to", now); err != nil {
		return from, to, err
	}
	to = to.Add(time.Hour - time.Nanosecond).Truncate(time.Hour)
	if from, err = timeAsked(c, "from", to.Add(-hoursDefault*time.Hour)); err != nil {
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

func timeAsked(c *gin.Context, name string, otherwise time.Time) (time.Time, error) {
	value := c.Query(name)
	if value == "" {
		return otherwise.UTC(), nil
	}
	at, err := time.Parse(time.RFC3339, value)
	at = at.UTC()
	if err != nil || at.Year() < 1970 || at.Year() > 9998 { // beyond which JSON has no times
		return at, invalid(name, "must be a time as in 2026-11-24T14:00:00Z")
	}
	return at, nil
}
