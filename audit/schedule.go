package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
)

// Schedule audits a pool periodically, in the background. Any number of processes may run
// a Schedule: the first that finds the last audit long enough ago runs the next one, and
// the others skip theirs while it runs. Last returns the report.
type Schedule struct {
	Config
	Interval time.Duration
	DB       postgres.Querier
	Log      *slog.Logger
}

// restFactor is the length of the pause after an audit, as a multiple of that audit's
// duration. Background audits therefore run for less than a tenth of the time, even while
// a difference makes each of them start at the same seq.
const restFactor = 10

// scheduleLockWait is how long a background audit waits for another audit to end.
const scheduleLockWait = time.Second

// Run audits until ctx ends.
func (s *Schedule) Run(ctx context.Context) {
	s.LockWait = scheduleLockWait
	for {
		if wait.For(ctx, s.Interval+rand.N(s.Interval/10+1)) != nil { //nolint:gosec // jitter is no secret
			return
		}
		if err := s.auditIfDue(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrAuditRunning) {
			s.Log.Warn("no audit was possible", "error", err)
		}
	}
}

// auditIfDue audits if the last audit was long enough ago, and logs the verdict.
func (s *Schedule) auditIfDue(ctx context.Context) error {
	due, err := s.due(ctx)
	if err != nil || !due {
		return err
	}
	report, err := Run(ctx, s.Config, false)
	if err != nil {
		return err
	}
	switch report.Verdict {
	case VerdictDiffers:
		s.Log.Error("audit: Redis, the stream or a read table differs from the journal",
			"differences", report.Differences.Count, "first", report.Differences.First[0], "seq", report.Seq)
	case VerdictParked, VerdictIncomplete:
		s.Log.Warn("audit: "+report.Summary(), "seq", report.Seq)
	case VerdictClean:
		s.Log.Debug("audit: clean",
			"seq", report.Seq, "events", report.Compared.Events, "took_ms", report.TookMs)
	}
	return nil
}

// due reports whether the last audit was long enough ago, by Postgres's clock: nearly the
// interval, and restFactor times that audit's duration.
func (s *Schedule) due(ctx context.Context) (due bool, err error) {
	const query = `
		SELECT extract(epoch FROM now() - last_at) * 1000 >= greatest($2 * 0.8, (report->>'took_ms')::bigint * $3)
		FROM audits WHERE pool = $1`
	err = s.DB.QueryRow(ctx, query, s.Pool.Name(), s.Interval.Milliseconds(), restFactor).Scan(&due)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look up the last audit: %w", err)
	}
	return due, nil
}
