package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// LockHolder is a session of Postgres whose lock on a live table a swap waits for.
type LockHolder struct {
	PID         int64  `json:"pid"` // 0 for a prepared transaction, which has no session
	Role        string `json:"role"`
	Application string `json:"application_name"`
	// Since is when its transaction began. It is when the rebuild first found its lock,
	// if the service's role may not see that.
	Since time.Time `json:"since"`
	Query string    `json:"query"` // the beginning of its latest query
}

func (h *LockHolder) String() string {
	since := h.Since.Format(time.RFC3339)
	if h.PID == 0 {
		return fmt.Sprintf("a prepared transaction (see pg_prepared_xacts) has had a lock since %s or longer", since)
	}
	return fmt.Sprintf("pid %d (application %q, role %s) has had a lock since %s; its query: %s",
		h.PID, h.Application, h.Role, since, h.Query)
}

// Short names the holder in a few words.
func (h *LockHolder) Short() string {
	if h.PID == 0 {
		return "a prepared transaction"
	}
	name := h.Application
	if name == "" {
		name = "role " + h.Role
	}
	return fmt.Sprintf("pid %d (%s) since %s", h.PID, name, h.Since.Format(time.RFC3339))
}

// findLockHolder returns the session that has had a lock on one of the live tables for
// the longest time, or nil if there is none.
func (s schemas) findLockHolder(
	ctx context.Context, db postgres.Querier, tables []string,
) (*LockHolder, error) {
	names := make([]string, len(tables))
	for i, table := range tables {
		names[i] = pgx.Identifier{s.live, table}.Sanitize()
	}
	// Postgres shows xact_start and query only to the session's own role, and to roles
	// that may read all statistics.
	const query = `
		SELECT coalesce(pid, 0), coalesce(usename, ''), coalesce(application_name, ''), coalesce(xact_start, now()),
		       left(regexp_replace(coalesce(query, ''), '\s+', ' ', 'g'), 80)
		FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'relation' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND relation IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name) AND pid IS DISTINCT FROM pg_backend_pid()
		ORDER BY xact_start NULLS FIRST LIMIT 1`
	h := new(LockHolder)
	err := db.QueryRow(ctx, query, names).Scan(&h.PID, &h.Role, &h.Application, &h.Since, &h.Query)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil //nolint:nilnil // no holder is not an error
	case err != nil:
		return nil, fmt.Errorf("find the holder of the lock: %w", err)
	}
	h.Since = h.Since.UTC()
	return h, nil
}
