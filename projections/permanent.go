package projections

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
)

// permanent reports whether the event itself caused an error, so that another attempt
// would fail too. For an error of Postgres whose cause is in doubt, it returns false. A
// worker that stops is visible and loses no event. A good event that was parked, because
// a disk was full or a table was missing, would have to be found and repaired by hand.
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
