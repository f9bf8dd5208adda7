package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
)

// Schedule audits a pool again and again, in the background. Any number of processes may run one: whichever finds that
// the last audit is long enough ago takes the next, and yields where another one is running. The result is kept where
// Last finds it.
type Schedule struct {
	Config
	Interval time.Duration
	DB       events.Querier
	Log      *slog.Logger
}

// restFactor is how many times as long as it worked the background audit rests: what it costs stays below a tenth of the
// time, even where a difference keeps it from moving on.
const restFactor = 10

// yieldAfter is how long the background audit waits for another one.
const yieldAfter = time.Second

// Run audits until ctx ends.
func (s *Schedule) Run(ctx context.Context) {
	s.LockWait = yieldAfter
	for {
		if wait.For(ctx, s.Interval+rand.N(s.Interval/10+1)) != nil { //nolint:gosec // jitter is no secret
			return
		}
		if err := s.once(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, ErrAuditRunning) {
			s.Log.Warn("no audit was possible", "error", err)
		}
	}
}

// once audits if it is time to.
func (s *Schedule) once(ctx context.Context) error {
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
		s.Log.Error("audit: the system differs from its journal", "differences", report.Differences.Count, "first", report.Differences.First[0], "seq", report.Seq)
	case VerdictParked, VerdictIncomplete:
		s.Log.Warn("audit: "+report.Summary(), "seq", report.Seq)
	case VerdictClean:
		s.Log.Debug("audit: clean", "seq", report.Seq, "events", report.Compared.Events, "took_ms", report.TookMs)
	}
	return nil
}

// due reports whether the last audit is long enough ago, by Postgres's clock.
func (s *Schedule) due(ctx context.Context) (due bool, err error) {
	const query = `
		SELECT extract(epoch FROM now() - last_at) * 1000 >= greatest($2 * 0.8, (report->>'took_ms')::bigint * $3)
		FROM audits WHERE pool = $1`
	err = s.DB.QueryRow(ctx, query, s.Pool.Name(), s.Interval.Milliseconds(), restFactor).Scan(&due)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look at the last audit: %w", err)
	}
	return due, nil
}
