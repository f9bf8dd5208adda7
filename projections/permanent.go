package projections

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// permanent reports whether the event itself caused an error, so that trying again cannot
// help. If Postgres returned an error and the cause is in doubt, the answer is no. A
// stopped worker is visible and loses no event; but a good event that was parked because
// a disk was full, a table was missing or a shutdown was in progress has to be found and
// repaired.
func permanent(err error) bool {
	var fromPostgres *pgconn.PgError
	if errors.As(err, &fromPostgres) {
		switch class := fromPostgres.Code[:2]; class {
		case "22", "23", "P0": // bad data, a violated constraint, or an exception that a trigger raised
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
