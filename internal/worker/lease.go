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

// Lease is the right to be the only runner of one named line of work. It is a Postgres session that holds an advisory
// lock, and the work goes through the same session: a runner that loses its connection loses the lock and its open
// transaction together, so two runners can never write at once.
type Lease struct {
	Conn *pgx.Conn
	name string
}

// leaseRetryInterval is how soon a waiting process takes over after the holder died.
const leaseRetryInterval = time.Second

// noticeDeadRunner has Postgres give the lock of a runner up whose machine or network died without a word, within some
// twenty seconds. A process that merely died is noticed at once.
const noticeDeadRunner = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`

// AbsenceMax is how long the runner of a line may leave its session alone, within a transaction or between two. Beyond it,
// Postgres ends the session: a process that is stopped, or sits in a machine that is frozen, keeps its connection, and the
// kernel answers keepalives for it. A line that has nothing to do asks something every few seconds. Tests set it lower.
var AbsenceMax = 30 * time.Second

// AcquireLease connects to Postgres and waits until the named line of work is free. The name is the lease's own
// within the connection's schema. The session may be left alone for as long as the work takes. Errors are those of the
// connection, and ctx's.
func AcquireLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	return acquireLease(ctx, config, name, noticeDeadRunner)
}

// AcquireWorkerLease is AcquireLease for a Line, which loses it when it leaves the session alone for absenceMax.
func AcquireWorkerLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	const noticeAbsentRunner = `; SET idle_session_timeout = %[1]d; SET idle_in_transaction_session_timeout = %[1]d`
	return acquireLease(ctx, config, name, noticeDeadRunner+fmt.Sprintf(noticeAbsentRunner, AbsenceMax.Milliseconds()))
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

// ErrLeased is returned by TryLease for a line of work that another session runs.
var ErrLeased = errors.New("another runner has the lease")

// TryLease connects to Postgres and takes the named line of work if it is free; it fails with ErrLeased otherwise.
func TryLease(ctx context.Context, config *pgx.ConnConfig, name string) (*Lease, error) {
	lease, err := connectLease(ctx, config, name, noticeDeadRunner)
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

// leaseKey is the number of the advisory lock that is the lease named $1.
const leaseKey = `hashtextextended('stockstream/' || current_schema() || '/' || $1, 0)`

// LeaseHeld reports whether any session has the named lease, in the schema that db works in.
func LeaseHeld(ctx context.Context, db postgres.Querier, name string) (held bool, err error) {
	const query = `
		SELECT EXISTS (
		    SELECT FROM pg_locks, ` + leaseKey + ` AS key
		    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
		      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		      AND (classid::bigint << 32 | objid::bigint) = key)`
	if err := db.QueryRow(ctx, query, name).Scan(&held); err != nil {
		return false, fmt.Errorf("look for the holder of lease %s: %w", name, err)
	}
	return held, nil
}

// connectLease opens the session of a lease that is yet to be taken.
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

// try takes the lock if it is free. Waiting inside Postgres would be prompter, but would hold back vacuum.
func (l *Lease) try(ctx context.Context) (taken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, StepTimeout)
	defer cancel()
	const query = `SELECT pg_try_advisory_lock(` + leaseKey + `)`
	if err := l.Conn.QueryRow(ctx, query, l.name).Scan(&taken); err != nil {
		return false, fmt.Errorf("lease %s: %w", l.name, err)
	}
	return taken, nil
}

// Release gives the lease up and closes its connection. Where it can, it waits for the lock to be free: Postgres would
// notice the end of the connection a moment later only.
func (l *Lease) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = l.Conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`) // the end of the connection does it, too
	_ = l.Conn.Close(ctx)                                      // nothing depends on a polite goodbye
}
