package rebuild

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// sessions are the ids of a rebuild's sessions. They are stored in its row, so that
// another process can end them if this one stands still. Its methods may be called
// concurrently.
type sessions struct {
	mu  sync.Mutex
	ids []string
}

func (s *sessions) add(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
}

func (s *sessions) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// sessionID is the SQL for the id of a session in pg_stat_activity. It is Postgres's own
// session id, which log_line_prefix shows as %c. No later session has the same id, as a
// later one with the same pid has another start.
const sessionID = `to_hex(trunc(extract(epoch FROM backend_start))::bigint) || '.' || to_hex(pid)`

// connect opens a session of the rebuild and remembers its id. The connection is nil if
// that fails.
func (j *Job) connect(ctx context.Context, config *pgx.ConnConfig) (*pgx.Conn, error) {
	conn, err := postgres.Connect(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	if err := j.remember(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// remember adds the id of a session to those of the rebuild.
func (j *Job) remember(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT ` + sessionID + ` FROM pg_stat_activity WHERE pid = pg_backend_pid()`
	var id string
	if err := conn.QueryRow(ctx, query).Scan(&id); err != nil {
		return fmt.Errorf("read the id of a session: %w", err)
	}
	j.sessions.add(id)
	return nil
}

// endAbandoned ends a run that is recorded as running although no other session has the
// lease: its process died, or stood still until Postgres ended the session of its lease.
//
//  1. Check that the lease is free, or held by the session of db itself.
//  2. End the other sessions of the run. A process that stands still keeps them, with
//     their locks, and would go on with them later.
//  3. Record the run as cancelled if it was asked to end or cancelled is set, and as
//     interrupted otherwise.
//
// It returns the id of the run, or 0 if there is none. One statement does all of it, so
// no rebuild can begin between the steps.
func endAbandoned(ctx context.Context, db postgres.Querier, cancelled bool) (id int64, err error) {
	const query = `
		WITH lease AS (SELECT pg_try_advisory_xact_lock(` + postgres.LockKey + `) AS free),
		     sessions AS (
		         SELECT pg_terminate_backend(pid, 5000) FROM lease, rebuilds JOIN pg_stat_activity ON ` + sessionID + ` = ANY(sessions)
		         WHERE free AND rebuilds.state = 'running' AND pid <> pg_backend_pid()
		     ),
		     ended AS (
		         UPDATE rebuilds SET state = ` + abandonedState + `, waits_for = NULL, finished_at = now(),
		                             cancel_asked = cancel_asked OR $2
		         FROM lease, (SELECT count(*) FROM sessions) AS sessions_ended
		         WHERE free AND rebuilds.state = 'running' RETURNING id
		     )
		SELECT coalesce(max(id), 0) FROM ended`
	if err := db.QueryRow(ctx, query, leaseName, cancelled).Scan(&id); err != nil {
		return 0, fmt.Errorf("end what an abandoned rebuild left behind: %w", err)
	}
	return id, nil
}
