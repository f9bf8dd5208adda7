package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// State is the state of a run.
type State string

// The states of a run. A run is interrupted if its process died before the run ended.
const (
	Running     State = "running"
	Done        State = "done"
	Failed      State = "failed"
	Cancelled   State = "cancelled"
	Interrupted State = "interrupted"
)

// RunRecord is one rebuild, as recorded in the table rebuilds for every process to see.
type RunRecord struct {
	ID          int64             `json:"id"`
	Projections []string          `json:"projections"`
	State       State             `json:"state"`
	Step        Step              `json:"step"`
	Done        int64             `json:"done"`  // events that every projection of the run has applied
	Total       int64             `json:"total"` // events to apply
	Rate        int64             `json:"rate"`  // events per second since the start; 0 unless running
	ETASeconds  float64           `json:"eta_seconds"`
	Swapped     []string          `json:"exchanged"`           // projections whose new tables serve
	WaitsFor    *LockHolder       `json:"waits_for,omitempty"` // set while a lock keeps the swap waiting
	Error       string            `json:"error,omitempty"`
	Differences []TableDifference `json:"differences,omitempty"`
	Started     time.Time         `json:"started_at"`
	Finished    time.Time         `json:"finished_at,omitzero"`
}

// abandonedState is the SQL for the state of a run that is recorded as running while no
// session has the lease. It is done if all its tables were swapped before its process
// died. $2 says whether an operator cancels it now.
const abandonedState = `CASE WHEN exchanged @> projections THEN 'done' WHEN cancel_asked OR $2 THEN 'cancelled' ELSE 'interrupted' END`

// recordStart records a new run with its sessions and returns its id.
func recordStart(
	ctx context.Context, conn *pgx.Conn, list []projections.Projection, sessions []string,
) (id int64, err error) {
	const begin = `
		INSERT INTO rebuilds (projections, state, step, sessions) VALUES ($1, 'running', $2, $3) RETURNING id`
	row := conn.QueryRow(ctx, begin, projections.Names(list), string(StepReplay), sessions)
	if err := row.Scan(&id); err != nil {
		return 0, fmt.Errorf("record the start of the rebuild: %w", err)
	}
	return id, nil
}

// recordSwap records, in the transaction of the swap, that a projection's new tables
// serve. It fails with ErrCancelled if the rebuild was cancelled, even if its process has
// stood still since and has not noticed.
func recordSwap(ctx context.Context, tx pgx.Tx, id int64, projection string) error {
	const add = `
		UPDATE rebuilds SET exchanged = exchanged || $2::text
		WHERE id = $1 AND state = 'running' AND NOT cancel_asked`
	tag, err := tx.Exec(ctx, add, id, projection)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrCancelled
	}
	return err
}

// recordEnd records how the run ended. If that fails, List still shows that the run has
// ended, because its lease is free.
func (j *Job) recordEnd(ctx context.Context, differences []TableDifference, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	state := Done
	message := ""
	if cause != nil {
		state = Failed
		message = cause.Error()
	}
	if errors.Is(cause, ErrCancelled) {
		state = Cancelled
	}
	if differences == nil {
		differences = []TableDifference{}
	}
	now := j.progress()
	const query = `
		UPDATE rebuilds SET state = $2, step = $3, done = $4, total = $5, error = $6, differences = $7, waits_for = NULL, finished_at = now()
		WHERE id = $1 AND state = 'running'`
	_, err := j.lease.Conn.Exec(ctx, query,
		j.id, string(state), string(now.Step), now.Done, now.Total, message, differences)
	if err != nil {
		j.config.Log.Warn("cannot record the end of a rebuild", "rebuild", j.id, "error", err)
	}
	if j.config.Report != nil && cause == nil {
		j.config.Report(now)
	}
}

// List returns the latest runs, newest first.
func List(ctx context.Context, db postgres.Querier, limit int) ([]RunRecord, error) {
	held, err := worker.LeaseHeld(ctx, db, leaseName)
	if err != nil {
		return nil, err
	}
	const query = `
		SELECT id, projections, CASE WHEN state = 'running' AND NOT $3 THEN ` + abandonedState +
		` ELSE state END, step, done, total, exchanged, CASE WHEN $3 THEN waits_for END, error, differences,
		       started_at, coalesce(finished_at, '0001-01-01T00:00:00Z'), extract(epoch FROM clock_timestamp() - started_at)::float8
		FROM rebuilds ORDER BY id DESC LIMIT $1`
	rows, err := db.Query(ctx, query, limit, false, held)
	if err != nil {
		return nil, fmt.Errorf("list rebuilds: %w", err)
	}
	runs, err := pgx.CollectRows(rows, scanRun)
	if err != nil {
		return nil, fmt.Errorf("list rebuilds: %w", err)
	}
	return runs, nil
}

// scanRun reads a row of List's query.
func scanRun(row pgx.CollectableRow) (r RunRecord, err error) {
	var differences []byte
	var ageSeconds float64
	err = row.Scan(
		&r.ID,
		&r.Projections,
		(*string)(&r.State),
		(*string)(&r.Step),
		&r.Done,
		&r.Total,
		&r.Swapped,
		&r.WaitsFor,
		&r.Error,
		&differences,
		&r.Started,
		&r.Finished,
		&ageSeconds,
	)
	if err != nil {
		return r, err
	}
	if r.State == Running {
		age := time.Duration(ageSeconds * float64(time.Second))
		rate, eta := rateAndETA(r.Step, r.Done, r.Total, age)
		r.Rate = int64(rate)
		r.ETASeconds = eta.Round(100 * time.Millisecond).Seconds()
	}
	r.Started = r.Started.UTC()
	r.Finished = r.Finished.UTC()
	return r, json.Unmarshal(differences, &r.Differences)
}

// ErrNotRunning is returned by Cancel if no rebuild is running.
var ErrNotRunning = errors.New("no rebuild is running")

// Cancel asks the running rebuild to end, in whichever process it runs, and returns its
// id. From then on, the rebuild swaps no more tables, and it ends within a second. If its
// process stands still, Postgres ends its lease within worker.AbsenceMax. Cancel also
// ends the sessions of a rebuild that has lost its lease.
func Cancel(ctx context.Context, db postgres.Querier) (id int64, err error) {
	held, err := worker.LeaseHeld(ctx, db, leaseName)
	if err != nil {
		return 0, err
	}
	if !held {
		id, err := endAbandoned(ctx, db, true)
		if err == nil && id == 0 {
			err = ErrNotRunning
		}
		return id, err
	}
	const query = `
		UPDATE rebuilds SET cancel_asked = true WHERE state = 'running' AND NOT exchanged @> projections
		RETURNING id`
	err = db.QueryRow(ctx, query).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, ErrNotRunning
	case err != nil:
		return 0, fmt.Errorf("cancel the rebuild: %w", err)
	}
	return id, nil
}
