package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

const (
	watchInterval = 100 * time.Millisecond
	reportEveryTicks   = 3 // looks
	// stalledAfter is how long a live line may have work and do none before nobody gives way to it any more.
	stalledAfter = 5 * time.Second
)

// watch looks at the live lag ten times a second and slows the rebuild down accordingly; it records and reports how far
// the rebuild has come, and returns ErrCancelled when somebody asks for its end.
func (j *Job) watch(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, j.config.Postgres.Copy())
	if err != nil {
		return ignoreCancelled(ctx, fmt.Errorf("connect to Postgres: %w", err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ticks := time.NewTicker(watchInterval)
	defer ticks.Stop()
	defer j.pace.pause(false)
	lines := liveWorkers{}
	for i := 0; ; i++ {
		lag, err := lines.lag(ctx, conn, j.config)
		if err != nil {
			return ignoreCancelled(ctx, err)
		}
		switch {
		case lag > j.config.LagMax:
			j.pace.pause(true)
		case lag < j.config.LagMax/2:
			j.pace.pause(false)
		}
		if i%reportEveryTicks == 0 {
			if err := j.report(ctx, conn); err != nil {
				return ignoreCancelled(ctx, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
	}
}

// ignoreCancelled takes an error for the end of ctx that it may come from.
func ignoreCancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // what fails because it is told to end has not failed
	}
	return err
}

func (j *Job) report(ctx context.Context, conn *pgx.Conn) error {
	now := j.pace.progress()
	if j.config.Report != nil {
		j.config.Report(now)
	}
	const query = `UPDATE rebuilds SET step = $2, done = $3, total = $4 WHERE id = $1 AND state = 'running' RETURNING cancel_asked`
	var cancel bool
	err := conn.QueryRow(ctx, query, j.id, string(now.Step), now.Done, now.Total).Scan(&cancel)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("the run is not recorded as running any more: another has begun")
	case err != nil:
		return fmt.Errorf("record progress: %w", err)
	case cancel:
		return ErrCancelled
	}
	return nil
}

// liveWorkers remembers where the live lines were, to tell a slow one from one that stands still.
type liveWorkers map[string]workerPosition

type workerPosition struct {
	checkpoint int64
	since      time.Time
}

// lag returns how old the oldest event is that a live line which works has not applied, or that the journal was slow to
// take. A line that stands still, because nobody runs it or its handler fails, is not helped by waiting.
func (w liveWorkers) lag(ctx context.Context, conn *pgx.Conn, config Config) (time.Duration, error) {
	lags, err := projections.ReadLag(ctx, conn, config.Pool.Name(), config.Watched...)
	if err != nil {
		return 0, err
	}
	most, now := time.Duration(0), time.Now()
	for _, lag := range lags {
		seen := w[lag.Projection]
		if seen.since.IsZero() || seen.checkpoint != lag.Checkpoint || lag.Events == 0 {
			w[lag.Projection] = workerPosition{lag.Checkpoint, now}
		} else if now.Sub(seen.since) > stalledAfter {
			continue
		}
		most = max(most, lag.Age)
	}
	// The journal's own delay shows in how late its last events were recorded.
	const query = `
		SELECT coalesce((SELECT extract(epoch FROM recorded_at - at)::float8
		    FROM (SELECT at, recorded_at FROM events WHERE pool = $1 ORDER BY seq DESC LIMIT 1) AS newest
		    WHERE recorded_at > now() - interval '1 s'), 0)`
	var seconds float64
	if err := conn.QueryRow(ctx, query, config.Pool.Name()).Scan(&seconds); err != nil {
		return 0, fmt.Errorf("read the journal's delay: %w", err)
	}
	return max(most, time.Duration(seconds*float64(time.Second))), nil
}
