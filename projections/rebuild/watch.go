package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/worker"
)

const (
	watchInterval    = 100 * time.Millisecond
	reportEveryTicks = 3
)

// watch runs beside a rebuild until ctx ends. Every 100 ms it reads the live lag and
// pauses or resumes the replay; every 300 ms it records and reports the progress. It
// returns ErrCancelled if Cancel was called.
func (j *Job) watch(ctx context.Context) error {
	conn, err := j.connect(ctx, j.config.Postgres)
	if err != nil {
		return ignoreCancelled(ctx, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	defer j.throttle.resume()
	workers := liveWorkers{}
	for tick := 0; ; tick++ {
		lag, err := workers.lag(ctx, conn, j.config)
		if err != nil {
			return ignoreCancelled(ctx, err)
		}
		switch {
		case lag > j.config.LagMax:
			j.throttle.pause()
		case lag < j.config.LagMax/2:
			j.throttle.resume()
		}
		if tick%reportEveryTicks == 0 {
			if err := j.report(ctx); err != nil {
				return ignoreCancelled(ctx, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// ignoreCancelled returns nil if ctx has ended, which is then the reason for err, and err
// otherwise.
func ignoreCancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the end of ctx is not a failure of watch
	}
	return err
}

// report calls Config.Report and records the progress.
func (j *Job) report(ctx context.Context) error {
	now := j.progress()
	if j.config.Report != nil {
		j.config.Report(now)
	}
	return j.record(ctx, now)
}

// record stores the progress in the run's row. It fails with ErrCancelled if the row asks
// for the end of the rebuild, and with ErrLeaseLost if the lease is lost. It uses the
// session of the lease, which Postgres would end if it stayed idle. While a swap uses
// that session, record does nothing.
func (j *Job) record(ctx context.Context, now Progress) error {
	if !j.leaseMu.TryLock() {
		return nil
	}
	defer j.leaseMu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), worker.StepTimeout)
	defer cancel()
	const query = `
		UPDATE rebuilds SET step = $2, done = $3, total = $4, sessions = $5, waits_for = $6
		WHERE id = $1 AND state = 'running' RETURNING cancel_asked`
	var cancelAsked bool
	err := j.lease.Conn.QueryRow(ctx, query,
		j.id, string(now.Step), now.Done, now.Total, j.sessions.list(), now.WaitsFor).Scan(&cancelAsked)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errors.New("the run is no longer recorded as running: another rebuild has begun")
	case err != nil && j.lease.Conn.IsClosed():
		return fmt.Errorf("%w: %w", ErrLeaseLost, err)
	case err != nil:
		return fmt.Errorf("record progress: %w", err)
	case cancelAsked:
		return ErrCancelled
	}
	return nil
}
