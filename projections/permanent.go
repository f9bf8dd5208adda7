package projections

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// permanent reports whether an event is to blame for an error, so that trying again would not help. In doubt about
// Postgres the answer is no: a stopped line is seen and loses nothing, whereas a healthy event that is parked because
// a disk was full, a table was missing or a shutdown was under way has to be found and repaired.
func permanent(err error) bool {
	var fromPostgres *pgconn.PgError
	if errors.As(err, &fromPostgres) {
		switch class := fromPostgres.Code[:2]; class {
		case "22", "23", "P0": // the data, a constraint, or an exception that a trigger raised
			return true
		default:
			return false
		}
	}
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.As(err, &network), pgconn.SafeToRetry(err):
		return false
	}
	return true
}
