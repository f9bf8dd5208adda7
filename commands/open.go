package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// Open compares Redis with the journal, under a lock, does what is needed, and begins to take commands: a new pool is
// set up, a Redis that is level with the journal or ahead of it is fine, and one that was emptied or is behind is
// restored from the journal. It fails with ErrUnjournaled, ErrForked, ErrJournalIncomplete or ErrJournalUnsound where
// that cannot be, and with the error of whichever of the two could not be asked.
func (s *Service) Open(ctx context.Context, postgres *pgx.ConnConfig) error {
	lease, err := worker.AcquireLease(ctx, postgres, s.openLease())
	if err == nil {
		defer lease.Release()
		err = s.settle(ctx, postgres, lease, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		s.shut(err)
		return err
	}
	s.opened()
	return nil
}

func (s *Service) openLease() string { return "open/" + s.pool.Name() }

func (s *Service) opened() {
	s.openFault.Store(nil)
	s.open.Store(true)
}

func (s *Service) shut(why error) {
	s.openFault.Store(&why)
	s.open.Store(false)
}

// settleAttempts is how often a log that changed while it was looked at is looked at again before giving up.
const settleAttempts = 5

// settle brings Redis and the journal together. The caller holds the lease.
func (s *Service) settle(ctx context.Context, postgres *pgx.ConnConfig, lease *worker.Lease, log *slog.Logger) error {
	for attempt := 1; ; attempt++ {
		both, relation, err := s.judge(ctx, lease.Conn)
		switch relation {
		case relationUnclear:
			return err
		case relationFits:
			s.fence.saw(both.log.Epoch, both.log.Seq)
			return journal.RecordPool(ctx, lease.Conn, s.pool.Name(), both.log.Epoch)
		case relationNew:
			err = s.initialise(ctx)
		case relationEarlierLife:
			log.Warn("Redis has all of the journal, and is of an earlier life: it is taken as it is",
				"pool", s.pool.Name(), "epoch", both.log.Epoch, "seq", both.log.Seq, "journaled", both.record.Journaled,
				"newest_epoch", both.newestEpoch(), "acknowledged", both.knownSeq)
			err = s.adopt(ctx, lease.Conn, both)
		case relationLost:
			err = s.restoreFrom(ctx, postgres, lease, both, log)
		}
		if err != nil && (!errors.Is(err, errChanged) || attempt == settleAttempts) {
			return err
		}
	}
}

func (s *Service) restoreFrom(ctx context.Context, postgres *pgx.ConnConfig, lease *worker.Lease, both sides, log *slog.Logger) error {
	logged := logProgress(log, s.pool.Name())
	r, err := s.newRestoring(ctx, postgres, lease, func(p Progress) {
		s.shut(fmt.Errorf("%w; it is being restored from the journal: %s, %d of %d", both.lost(), p.Step, p.Done, p.Total))
		logged(p)
	})
	if err != nil {
		return err
	}
	if err := r.verify(ctx, both); err != nil {
		return err
	}
	log.Warn("restoring Redis from the journal", "pool", s.pool.Name(), "reason", both.lost(), "journaled", both.record.Journaled)
	if err := r.restore(ctx, both); err != nil {
		return fmt.Errorf("restore Redis from the journal: %w", err)
	}
	done := r.summary()
	log.Warn("Redis is restored from the journal", "pool", s.pool.Name(), "epoch", done.Epoch, "seq", done.Seq, "skus", done.SKUs,
		"live_holds", done.LiveHolds, "ended_holds", done.EndedHolds, "keys", done.Keys, "unreadable_events", done.Unreadable)
	return nil
}

// lost says what befell a Redis that is to be restored.
func (b sides) lost() error {
	if !b.log.Exists {
		return fmt.Errorf("%w (the journal ends at seq %d)", ErrEmptied, b.record.Journaled)
	}
	if b.log.Seq >= b.record.Journaled {
		return fmt.Errorf("%w (Redis's log is of epoch %d, the newest is %d)", ErrBehind, b.log.Epoch, b.newestEpoch())
	}
	return fmt.Errorf("%w (Redis ends at seq %d in epoch %d, the journal at %d in epoch %d)",
		ErrBehind, b.log.Seq, b.log.Epoch, b.record.Journaled, b.newestEpoch())
}

// initialise begins the log of a pool that has never had one. Redis first, Postgres second: a crash in between leaves
// an empty log, which fits.
func (s *Service) initialise(ctx context.Context) error {
	reply, err := initialiseScript.Run(ctx, s.redis, []string{s.pool.MetaKey()}, journal.FirstEpoch).StringSlice()
	if err != nil || len(reply) != 1 || reply[0] != statusInitialised && reply[0] != statusExists {
		return fmt.Errorf("initialise the log: %v: %w", reply, err)
	}
	return nil
}

// Ready returns nil when a command would be decided now, and otherwise why not: ErrUnavailable, ErrNotReady or
// ErrStale, with the reason in the text. It asks whether Redis could write, too.
func (s *Service) Ready(ctx context.Context) error {
	if !s.open.Load() {
		if fault := s.openFault.Load(); fault != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, *fault)
		}
		return ErrNotReady
	}
	epoch, seq := s.fence.known()
	log, err := stream.ReadHead(ctx, s.redis, s.pool)
	switch {
	case err != nil:
		return s.readError(err, s.pool.MetaKey())
	case !log.Exists:
		return fmt.Errorf("%w: %w", ErrNotReady, ErrEmptied)
	case log.Epoch < epoch || log.Epoch == epoch && log.Seq < seq:
		return fmt.Errorf("%w: it ends at seq %d in epoch %d, and had acknowledged %d in %d", ErrStale, log.Seq, log.Epoch, seq, epoch)
	}
	if err := canWriteScript.Run(ctx, s.redis, nil).Err(); err != nil {
		return decisionError(err)
	}
	return nil
}
