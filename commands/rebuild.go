package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

// RebuildOptions say how to rebuild Redis on demand.
type RebuildOptions struct {
	// EvenHealthy goes on where Redis lacks nothing that the journal has.
	EvenHealthy bool
	// Wait bounds how long the journal may take to come to the end of the log that was closed, and how long another
	// process may take that is restoring Redis.
	Wait time.Duration
	// Report is told how it goes, from several goroutines; it may be nil.
	Report func(Progress)
}

// Rebuilt is what Redis holds after it was written anew.
type Rebuilt struct {
	Epoch, Seq int64 // of the log that was opened
	SKUs       int64
	LiveHolds  int64
	EndedHolds int64 // that are still remembered
	Keys       int64 // idempotency keys that are still remembered
	Unreadable int64 // events that were passed over, as the read tables pass over them
}

// ErrHealthy is returned to a rebuild that was not told to go on in any case.
var ErrHealthy = errors.New("Redis has everything that the journal has")

// ErrNothing is returned for a pool that has no events.
var ErrNothing = errors.New("the pool was never set up: there is nothing to rebuild")

// Rebuild writes everything anew that Redis keeps of the pool, from the journal. Commands are answered NOT_READY from
// the moment in which the log is closed until it is open again; what fails before any key was touched leaves it open as
// it was. What was typed into Redis by hand, and not yet recorded by a command, is undone. Other than Open's, its errors
// are ErrHealthy, ErrNothing and ErrUnjournaled for a journal that did not catch up in time.
func (s *Service) Rebuild(ctx context.Context, postgres *pgx.ConnConfig, options RebuildOptions) (Rebuilt, error) {
	if options.Report == nil {
		options.Report = func(Progress) {}
	}
	waiting, cancel := context.WithTimeout(ctx, options.Wait)
	lease, err := worker.AcquireLease(waiting, postgres, s.openLease())
	cancel()
	if err != nil {
		return Rebuilt{}, err
	}
	defer lease.Release()
	both, relation, err := s.judge(ctx, lease.Conn)
	switch {
	case err != nil:
		return Rebuilt{}, err
	case relation == relationNew:
		return Rebuilt{}, ErrNothing
	case relation != relationLost && !options.EvenHealthy:
		return Rebuilt{}, ErrHealthy
	}
	r, err := s.newRestoring(ctx, postgres, lease, options.Report)
	if err != nil {
		return Rebuilt{}, err
	}
	if relation == relationLost {
		if err = r.verify(ctx, both); err == nil {
			err = r.restore(ctx, both)
		}
	} else {
		err = r.replace(ctx, both, options.Wait)
	}
	if err != nil {
		return Rebuilt{}, err
	}
	return r.summary(), nil
}

func (r *restoring) summary() Rebuilt {
	done := Rebuilt{
		Epoch: r.epoch, Seq: r.fold.seq, SKUs: int64(len(r.fold.stock)), Keys: int64(len(r.fold.keys)), Unreadable: r.fold.unreadable,
	}
	for _, h := range r.fold.holds {
		if h.state == HoldActive {
			done.LiveHolds++
		} else {
			done.EndedHolds++
		}
	}
	return done
}

// replace writes the keys of a Redis anew that lacks nothing. Nearly all of the journal is folded while commands are
// still decided; the log is closed for the rest.
func (r *restoring) replace(ctx context.Context, both sides, patience time.Duration) error {
	if err := r.foldTo(ctx, both.record.Journaled); err != nil {
		return err
	}
	end, err := r.close(ctx, both.log.Epoch, "")
	if err != nil {
		return err
	}
	epoch, err := r.takeRest(ctx, both, end, patience)
	if err != nil {
		return errors.Join(err, r.reopen(ctx, both.log.Epoch))
	}
	if err := r.rewrite(ctx, epoch); err != nil {
		return fmt.Errorf("Redis is closed for commands, and only partly written; any process of the service restores it, or this command once more: %w", err)
	}
	return nil
}

// takeRest folds what the journal lacked when the log was closed, and raises the epoch. No key was touched so far.
func (r *restoring) takeRest(ctx context.Context, both sides, end int64, patience time.Duration) (epoch int64, err error) {
	deadline := time.Now().Add(patience)
	for {
		journaled, err := r.journaled(ctx)
		if err != nil {
			return 0, err
		}
		r.report(Progress{Step: StepWait, Done: journaled, Total: end})
		if journaled >= end {
			break
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%w (the log was closed at seq %d, and after %s the journal was at %d)", ErrUnjournaled, end, patience, journaled)
		}
		if err := wait.For(ctx, closedInterval/5); err != nil {
			return 0, err
		}
	}
	epoch, journaled, err := journal.RaiseEpoch(ctx, r.lease.Conn, r.pool.Name(), max(both.log.Epoch, both.knownEpoch))
	if err != nil {
		return 0, err
	}
	if journaled != end {
		return 0, fmt.Errorf("%w: the log was closed at seq %d, and the journal ends at %d", ErrForked, end, journaled)
	}
	return epoch, r.foldTo(ctx, end)
}

// reopen takes the closed log up again, also for a caller who does not want to wait any longer.
func (r *restoring) reopen(ctx context.Context, epoch int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	keys := []string{r.pool.MetaKey(), r.pool.ClosedMetaKey(), r.pool.NextMetaKey()}
	if err := r.step(ctx, reopenScript, statusReopened, keys, epoch); err != nil {
		return fmt.Errorf("the log stays closed, and any process of the service will restore it: %w", err)
	}
	return nil
}

// EveryStep thins reports out: it passes on the first of each step, and others once in an interval. It may be called
// from several goroutines, and calls report from one at a time.
func EveryStep(interval time.Duration, report func(Progress)) func(Progress) {
	var mu sync.Mutex
	var step string
	var last time.Time
	return func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Step == step && time.Since(last) < interval {
			return
		}
		step, last = p.Step, time.Now()
		report(p)
	}
}
