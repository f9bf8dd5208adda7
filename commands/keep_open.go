package commands

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

const (
	lookInterval   = time.Second            // between looks at a pool that is open
	closedInterval = 250 * time.Millisecond // and at one that is not
	pauseMin       = 100 * time.Millisecond // however many commands are refused
	lookTimeout    = 5 * time.Second
	failedPauseMax = 16 * time.Second // after restoring failed again and again
	reportInterval = 5 * time.Second  // between lines of the log about one step
)

// KeepOpening opens the pool as soon as that is safe, and watches over it until ctx ends: a Redis that loses its data,
// or comes back with older ones, is restored from the journal while this process runs, and a log that has forked takes
// no more commands. Until then, and meanwhile, commands are answered NOT_READY. Postgres may come and go: a pool that is
// open stays so without it.
func (s *Service) KeepOpening(ctx context.Context, postgres *pgx.ConnConfig, log *slog.Logger) {
	k := &keeper{Service: s, postgres: postgres, log: log}
	defer k.disconnect(ctx)
	failures := 0
	for ctx.Err() == nil {
		err := k.look(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := closedInterval
		switch {
		case err == nil && s.open.Load():
			pause, failures = lookInterval, 0
		case err != nil:
			failures++
			pause = min(closedInterval<<min(failures, 10), failedPauseMax)
		}
		k.rest(ctx, pause)
	}
}

// keeper is what watches over one pool in one process.
type keeper struct {
	*Service
	postgres *pgx.ConnConfig
	log      *slog.Logger
	conn     *pgx.Conn // nil until it is needed, and after a fault
	told     string    // the fault that was logged last
}

// rest waits for the next look. While the pool is open a command that was refused brings it on, though not at the rate
// at which commands may be refused.
func (k *keeper) rest(ctx context.Context, pause time.Duration) {
	misfit := k.misfit
	if !k.open.Load() {
		misfit = nil
	} else if wait.For(ctx, pauseMin) != nil {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-misfit:
	}
}

// noticeMisfit brings the next look on when a script refused to decide in the log that it found.
func (s *Service) noticeMisfit(err error) {
	if !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrStale) {
		return
	}
	select {
	case s.misfit <- struct{}{}:
	default: // it was told already
	}
}

// look compares Redis and the journal once, and does what is to be done. An error is one that should not be met again
// at once.
func (k *keeper) look(ctx context.Context) error {
	both, relation, err := k.judgeNow(ctx)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // the end that was asked for
	case errors.Is(err, ErrUnjournaled) || errors.Is(err, ErrForked):
		k.tell(err)
		return nil // it is told, and may be met again at once
	case err != nil: // one of the two could not be asked: an open pool stays open
		k.disconnect(ctx)
		if !k.open.Load() {
			k.tell(err)
		}
		return nil
	case relation == relationFits && both.log.Epoch == both.record.Epoch:
		k.fence.saw(both.log.Epoch, both.log.Seq)
		k.openUp()
		return nil
	case relation == relationLost || relation == relationEarlierLife:
		k.shut(both.lost())
	}
	return k.act(ctx)
}

func (k *keeper) judgeNow(ctx context.Context) (sides, relation, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if k.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, k.postgres.Copy())
		if err != nil {
			return sides{}, relationUnclear, err
		}
		k.conn = conn
	}
	return k.judge(ctx, k.conn)
}

// act settles what does not fit, unless another process is at it.
func (k *keeper) act(ctx context.Context) error {
	lease, err := worker.TryLease(ctx, k.postgres, k.openLease())
	if errors.Is(err, worker.ErrLeased) {
		return nil
	}
	if err == nil {
		defer lease.Release()
		err = k.settle(ctx, k.postgres, lease, k.log)
	}
	switch {
	case err == nil:
		k.openUp()
	case ctx.Err() == nil:
		k.tell(err)
	}
	return err
}

func (k *keeper) openUp() {
	if !k.open.Load() {
		k.told = ""
		k.opened()
		k.log.Info("pool open for commands", "pool", k.pool.Name())
	}
}

// tell shuts the pool, and logs why, once.
func (k *keeper) tell(why error) {
	k.shut(why)
	if why.Error() != k.told {
		k.told = why.Error()
		k.log.Error("pool not open for commands", "pool", k.pool.Name(), "error", why)
	}
}

func (k *keeper) disconnect(ctx context.Context) {
	if k.conn != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = k.conn.Close(ctx) // nothing depends on a polite goodbye
		k.conn = nil
	}
}

// logProgress logs each step as it begins, and now and then while it lasts.
func logProgress(log *slog.Logger, pool string) func(Progress) {
	return EveryStep(reportInterval, func(p Progress) {
		log.Info("restoring Redis: "+p.Step, "pool", pool, "done", p.Done, "total", p.Total)
	})
}
