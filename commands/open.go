package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
)

// Reasons for which a pool is not opened. Both mean that Redis lost events which the journal has, or should have.
var (
	ErrEmptied = errors.New("Redis was emptied: it has no log for this pool, which has been in use")
	ErrBehind  = errors.New("Redis is behind the journal: it was restored from an older state")
)

// openRetryInterval is how often a pool that could not be opened is tried again.
const openRetryInterval = time.Second

// KeepOpening opens the pool as soon as that is safe, and returns then, or when ctx ends. Until it has succeeded,
// every command is answered NOT_READY. Once it has, the scripts themselves guard against a Redis that loses its log,
// so Postgres may come and go.
func (s *Service) KeepOpening(ctx context.Context, postgres *pgx.ConnConfig, log *slog.Logger) {
	var last string
	for ctx.Err() == nil {
		err := s.Open(ctx, postgres)
		if err == nil {
			log.Info("pool open for commands", "pool", s.pool.Name())
			return
		}
		if ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			log.Error("pool not open for commands; trying again every second", "pool", s.pool.Name(), "error", err)
		}
		timer := time.NewTimer(openRetryInterval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Open compares Redis with the journal, under a lock, and begins to take commands where the two fit: a new pool is
// set up, a Redis that is level with the journal or ahead of it is fine. It fails with ErrEmptied and ErrBehind where
// they do not, and with the error of whichever of the two could not be asked.
func (s *Service) Open(ctx context.Context, postgres *pgx.ConnConfig) error {
	err := s.compare(ctx, postgres)
	s.openFault.Store(&err)
	if err == nil {
		s.open.Store(true)
	}
	return err
}

func (s *Service) compare(ctx context.Context, postgres *pgx.ConnConfig) error {
	pool := s.pool.Name()
	lease, err := events.AcquireLease(ctx, postgres, "open/"+pool)
	if err != nil {
		return err
	}
	defer lease.Release()
	journaled, err := events.ReadCheckpoint(ctx, lease.Conn, events.JournalCheckpoint, pool)
	if err != nil {
		return err
	}
	seq, exists, err := events.LogEnd(ctx, s.redis, s.pool)
	switch {
	case err != nil:
		return err
	case exists && seq < journaled:
		return fmt.Errorf("%w (Redis ends at seq %d, the journal at %d); restore Redis's newest data, and do not delete the journal", ErrBehind, seq, journaled)
	case !exists:
		if err := s.initialise(ctx, lease.Conn, journaled); err != nil {
			return err
		}
	}
	return events.RecordPool(ctx, lease.Conn, pool, firstEpoch)
}

const firstEpoch = 1

// initialise begins the log of a pool that has never had one.
func (s *Service) initialise(ctx context.Context, conn *pgx.Conn, journaled int64) error {
	used, err := events.PoolRecorded(ctx, conn, s.pool.Name())
	if err != nil {
		return err
	}
	entries, err := s.redis.XLen(ctx, s.pool.StreamKey()).Result()
	if err != nil {
		return fmt.Errorf("look at the stream: %w", err)
	}
	if used || journaled > 0 || entries > 0 {
		return fmt.Errorf("%w (the journal ends at seq %d, the stream has %d entries); restore Redis's data, and do not set it up anew: it would sell what is sold", ErrEmptied, journaled, entries)
	}
	// Redis first, Postgres second: a crash in between leaves an empty log that the next start accepts.
	reply, err := initialiseScript.Run(ctx, s.redis, []string{s.pool.MetaKey()}, firstEpoch).StringSlice()
	if err != nil || len(reply) != 1 || reply[0] != statusInitialised && reply[0] != statusExists {
		return fmt.Errorf("initialise the log: %v: %w", reply, err)
	}
	return nil
}

// Ready returns nil when a command would be decided now, and otherwise why not: ErrUnavailable, ErrNotReady or
// ErrStale, with the reason in the text.
func (s *Service) Ready(ctx context.Context) error {
	if !s.open.Load() {
		if fault := s.openFault.Load(); fault != nil && *fault != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, *fault)
		}
		return ErrNotReady
	}
	seq, exists, err := events.LogEnd(ctx, s.redis, s.pool)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !exists {
		return fmt.Errorf("%w: %w", ErrNotReady, ErrEmptied)
	}
	if _, known := s.fence.known(); seq < known {
		return fmt.Errorf("%w: it ends at seq %d, and had acknowledged %d", ErrStale, seq, known)
	}
	return nil
}
