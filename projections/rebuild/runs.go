package rebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// State says what has become of a run.
type State string

// The states of a run. An interrupted one is one whose process died.
const (
	Running     State = "running"
	Done        State = "done"
	Failed      State = "failed"
	Cancelled   State = "cancelled"
	Interrupted State = "interrupted"
)

// RunRecord is a rebuild as any process can see it.
type RunRecord struct {
	ID          int64        `json:"id"`
	Projections []string     `json:"projections"`
	State       State        `json:"state"`
	Step        Step         `json:"step"`
	Done        int64        `json:"done"`  // events that every projection of the run has applied
	Total       int64        `json:"total"` // events that there are to apply
	Rate        int64        `json:"rate"`  // events a second since it began; 0 for a run that is over
	ETASeconds  float64      `json:"eta_seconds"`
	Swapped   []string     `json:"exchanged"` // projections whose new tables serve
	Error       string       `json:"error,omitempty"`
	Differences []TableDifference `json:"differences,omitempty"`
	Started     time.Time    `json:"started_at"`
	Finished    time.Time    `json:"finished_at,omitzero"`
}

// abandonedState is what became of a run that says it is running and that nobody runs: one that had exchanged all its
// tables was done, even if its process died before it could say so.
const abandonedState = `CASE WHEN exchanged @> projections THEN 'done' ELSE 'interrupted' END`

// recordStart notes that a run begins, and that those before it do not run any more: the caller has the lease.
func recordStart(ctx context.Context, conn *pgx.Conn, list []projections.Projection) (id int64, err error) {
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		const end = `UPDATE rebuilds SET state = ` + abandonedState + `, finished_at = now() WHERE state = 'running'`
		if _, err := tx.Exec(ctx, end); err != nil {
			return err
		}
		const begin = `INSERT INTO rebuilds (projections, state, step) VALUES ($1, 'running', $2) RETURNING id`
		return tx.QueryRow(ctx, begin, projections.Names(list), string(StepReplay)).Scan(&id)
	})
	if err != nil {
		return 0, fmt.Errorf("record the rebuild: %w", err)
	}
	return id, nil
}

// recordSwap notes, in the transaction that does it, that a projection's new tables serve.
func recordSwap(ctx context.Context, tx pgx.Tx, id int64, projection string) error {
	_, err := tx.Exec(ctx, `UPDATE rebuilds SET exchanged = exchanged || $2::text WHERE id = $1`, id, projection)
	return err
}

// recordEnd records what became of the run. Where that fails too, the lease tells that nobody runs it.
func (j *Job) recordEnd(ctx context.Context, differences []TableDifference, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	state, fault := Done, ""
	if cause != nil {
		state, fault = Failed, cause.Error()
	}
	if errors.Is(cause, ErrCancelled) {
		state = Cancelled
	}
	if differences == nil {
		differences = []TableDifference{}
	}
	now := j.pace.progress()
	const query = `
		UPDATE rebuilds SET state = $2, step = $3, done = $4, total = $5, error = $6, differences = $7, finished_at = now()
		WHERE id = $1 AND state = 'running'`
	if _, err := j.lease.Conn.Exec(ctx, query, j.id, string(state), string(now.Step), now.Done, now.Total, fault, differences); err != nil {
		j.config.Log.Warn("what became of a rebuild is not recorded", "rebuild", j.id, "error", err)
	}
	if j.config.Report != nil && cause == nil {
		j.config.Report(now)
	}
}

// List returns the latest runs, the newest first.
func List(ctx context.Context, db events.Querier, limit int) ([]RunRecord, error) {
	held, err := events.LeaseHeld(ctx, db, leaseName)
	if err != nil {
		return nil, err
	}
	const query = `
		SELECT id, projections, CASE WHEN state = 'running' AND NOT $2 THEN ` + abandonedState + ` ELSE state END, step, done, total, exchanged, error, differences,
		       started_at, coalesce(finished_at, '0001-01-01T00:00:00Z'), extract(epoch FROM clock_timestamp() - started_at)::float8
		FROM rebuilds ORDER BY id DESC LIMIT $1`
	rows, err := db.Query(ctx, query, limit, held)
	if err != nil {
		return nil, fmt.Errorf("list rebuilds: %w", err)
	}
	runs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r RunRecord, err error) {
		var differences []byte
		var age float64
		err = row.Scan(&r.ID, &r.Projections, (*string)(&r.State), (*string)(&r.Step), &r.Done, &r.Total, &r.Swapped, &r.Error, &differences, &r.Started, &r.Finished, &age)
		if err != nil {
			return r, err
		}
		if r.State == Running {
			rate, left := rateAndETA(r.Step, r.Done, r.Total, time.Duration(age*float64(time.Second)))
			r.Rate, r.ETASeconds = int64(rate), left.Round(100*time.Millisecond).Seconds()
		}
		r.Started, r.Finished = r.Started.UTC(), r.Finished.UTC()
		return r, json.Unmarshal(differences, &r.Differences)
	})
	if err != nil {
		return nil, fmt.Errorf("list rebuilds: %w", err)
	}
	return runs, nil
}

// ErrNotRunning is returned by Cancel where no rebuild runs.
var ErrNotRunning = errors.New("no rebuild runs")

// Cancel asks the rebuild that runs, in whichever process, to end, and returns its number. It ends within a second,
// unless its exchange is under way.
func Cancel(ctx context.Context, db events.Querier) (id int64, err error) {
	held, err := events.LeaseHeld(ctx, db, leaseName)
	if err != nil {
		return 0, err
	}
	if !held {
		return 0, ErrNotRunning
	}
	const query = `UPDATE rebuilds SET cancel_asked = true WHERE state = 'running' RETURNING id`
	err = db.QueryRow(ctx, query).Scan(&id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, ErrNotRunning
	case err != nil:
		return 0, fmt.Errorf("cancel the rebuild: %w", err)
	}
	return id, nil
}
