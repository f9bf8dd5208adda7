package postgres

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATE codes of Postgres's errors that we react to.
const (
	SerializationFailure  = "40001"
	DeadlockDetected      = "40P01"
	InsufficientPrivilege = "42501"
	InvalidAuthorization  = "28000" // among others: the role does not exist
	UndefinedTable        = "42P01"
	LockNotAvailable      = "55P03" // lock_timeout passed before the lock was free
)

// IsCode reports whether err is, or wraps, an error from Postgres with one of these
// SQLSTATE codes.
func IsCode(err error, codes ...string) bool {
	var fromPostgres *pgconn.PgError
	return errors.As(err, &fromPostgres) && slices.Contains(codes, fromPostgres.Code)
}
