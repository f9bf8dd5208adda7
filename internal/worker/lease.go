package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
)

// Lease is the right to be the only process that does one kind of work. It is a Postgres
// session that holds an advisory lock, and the work is written through the same session:
// a process that loses its connection loses the lock and its open transaction together.
// So two processes never write at once.
type Lease struct {
	Conn *pgx.Conn
	name string
}

// leaseRetryInterval is how often a waiting process tries to take the lease.
const leaseRetryInterval = time.Second

// keepaliveSettings make Postgres release the lock about twenty seconds after the machine
// or the network of its holder went silent. If only the process dies, Postgres notices at
// once.
const keepaliveSettings = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`

// AbsenceMax is how long a worker may leave its lease's session idle, inside a
// transaction or outside one. Postgres then ends the session. Keepalives do not cover
// this case: a suspended process, or one on a frozen machine, keeps its connection,
// because the kernel answers for it. An idle worker runs a query every few seconds. Tests
// set it lower.
var AbsenceMax = 30 * time.Second

// ErrLeased is returned by TryLease and RequestLease if another session has the lease.
var ErrLeased = errors.New("another process has the lease")

// ErrHandedOver ends the run of a worker that gave up its lease on request; see
// RequestLease. It is no failure.
var ErrHandedOver = errors.New("another process asked for the lease")

// AcquireLease connects to Postgres and waits until the named lease is free. Names are
// separate per schema. The session may stay idle for as long as the work takes. Errors
// are those of the connection, and ctx's.
func AcquireLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	return acquireLease(ctx, config, name, keepaliveSettings)
}

// AcquireWorkerLease is AcquireLease for a Worker. The lease is lost if its session stays
// idle for AbsenceMax.
func AcquireWorkerLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	return acquireLease(ctx, config, name, workerSettings())
}

// workerSettings make Postgres end a session that is idle for AbsenceMax.
func workerSettings() string {
	const idleSettings = `; SET idle_session_timeout = %[1]d; SET idle_in_transaction_session_timeout = %[1]d`
	return keepaliveSettings + fmt.Sprintf(idleSettings, AbsenceMax.Milliseconds())
}

// RequestLease takes a worker's lease, or fails with ErrLeased after waitMax. It waits
// inside Postgres: a worker sees the waiting session, finishes what it has begun, and
// gives up the lease, which Postgres then grants to that session. The lease is lost if
// its session stays idle for AbsenceMax.
func RequestLease(
	ctx context.Context, config *pgx.ConnConfig, name string, waitMax time.Duration,
) (*Lease, error) {
	settings := workerSettings() + fmt.Sprintf(`; SET lock_timeout = %d`, waitMax.Milliseconds())
	lease, err := connectLease(ctx, config, name, settings)
	if err != nil {
		return nil, err
	}
	const query = `SELECT pg_advisory_lock(` + postgres.LockKey + `)`
	_, err = lease.Conn.Exec(ctx, query, name)
	if postgres.IsCode(err, postgres.LockNotAvailable) {
		err = ErrLeased
	}
	if err != nil {
		lease.Release()
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	return lease, nil
}

// Requested reports whether a session waits for this lease in RequestLease.
func (l *Lease) Requested(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	return lockExists(ctx, l.Conn, l.name, false)
}

func acquireLease(ctx context.Context, config *pgx.ConnConfig, name, settings string) (*Lease, error) {
	lease, err := connectLease(ctx, config, name, settings)
	if err != nil {
		return nil, err
	}
	for {
		taken, err := lease.try(ctx)
		if err != nil {
			lease.Release()
			return nil, err
		}
		if taken {
			return lease, nil
		}
		if err := wait.For(ctx, leaseRetryInterval); err != nil {
			lease.Release()
			return nil, err
		}
	}
}

// TryLease connects to Postgres and takes the named lease, or fails with ErrLeased if it
// is not free.
func TryLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	return tryLease(ctx, config, name, keepaliveSettings)
}

// TryWorkerLease is TryLease for work that uses the lease's session all the time. The
// lease is lost if that session stays idle for AbsenceMax.
func TryWorkerLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	return tryLease(ctx, config, name, workerSettings())
}

func tryLease(ctx context.Context, config *pgx.ConnConfig, name, settings string) (*Lease, error) {
	lease, err := connectLease(ctx, config, name, settings)
	if err != nil {
		return nil, err
	}
	taken, err := lease.try(ctx)
	if err == nil && !taken {
		err = fmt.Errorf("lease %s: %w", name, ErrLeased)
	}
	if err != nil {
		lease.Release()
		return nil, err
	}
	return lease, nil
}

// LeaseHeld reports whether any session has the named lease in the schema of db.
func LeaseHeld(ctx context.Context, db postgres.Querier, name string) (held bool, err error) {
	return lockExists(ctx, db, name, true)
}

// lockExists reports whether a session holds the lock of a lease, or, if granted is
// false, waits for it.
func lockExists(
	ctx context.Context, db postgres.Querier, name string, granted bool,
) (exists bool, err error) {
	// pg_locks shows the key of an advisory lock in two halves.
	const query = `
		SELECT EXISTS (
		    SELECT FROM pg_locks, ` + postgres.LockKey + ` AS key
		    WHERE locktype = 'advisory' AND objsubid = 1 AND granted = $2
		      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		      AND (classid::bigint << 32 | objid::bigint) = key)`
	if err := db.QueryRow(ctx, query, name, granted).Scan(&exists); err != nil {
		return false, fmt.Errorf("look for the sessions of lease %s: %w", name, err)
	}
	return exists, nil
}

// connectLease opens the session of a lease, without taking the lease yet.
func connectLease(ctx context.Context, config *pgx.ConnConfig, name, settings string) (*Lease, error) {
	conn, err := postgres.Connect(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	lease := &Lease{Conn: conn, name: name}
	if _, err := conn.Exec(ctx, settings); err != nil {
		lease.Release()
		return nil, fmt.Errorf("lease %s: %w", name, err)
	}
	return lease, nil
}

// try takes the lock if it is free. It does not wait inside Postgres, because a
// long-running query would keep vacuum from removing dead rows.
func (l *Lease) try(ctx context.Context) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	const query = `SELECT pg_try_advisory_lock(` + postgres.LockKey + `)`
	if err := l.Conn.QueryRow(ctx, query, l.name).Scan(&taken); err != nil {
		return false, fmt.Errorf("lease %s: %w", l.name, err)
	}
	return taken, nil
}

// Release gives up the lease and closes its connection. It unlocks first, because
// Postgres notices a closed connection only a moment later. It ignores errors: the lock
// ends with the session anyway.
func (l *Lease) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = l.Conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`)
	_ = l.Conn.Close(ctx)
}
