package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
)

// RebuildOptions say how to rebuild Redis on demand.
type RebuildOptions struct {
	// EvenHealthy rebuilds a Redis that lacks no event of the journal, too.
	EvenHealthy bool
	// Wait bounds how long the journal may take to reach the end of the closed log, and
	// how long another process that is restoring Redis may take.
	Wait time.Duration
	// Report receives the progress, from several goroutines. It may be nil.
	Report func(RestoreProgress)
}

// Rebuilt describes the log that was published, and counts the keys written with it.
type Rebuilt struct {
	Epoch      int64 // the log's epoch
	Seq        int64 // the log's last seq
	SKUs       int64 // stock counters
	LiveHolds  int64
	EndedHolds int64 // ended holds that Redis still keeps
	Keys       int64 // idempotency keys
	Unreadable int64 // events that were skipped, as the read tables skip them
}

// ErrHealthy is returned by Rebuild without EvenHealthy if Redis has every event of the
// journal.
var ErrHealthy = errors.New("Redis has everything that the journal has")

// rebuildPoll is how often Rebuild looks whether the journal has reached the end of the
// closed log.
const rebuildPoll = 50 * time.Millisecond

// Rebuild removes every key that follows from the pool's events, and writes these keys
// again from the journal. Commands are answered NOT_READY from the moment the log is
// closed until it is published again. A failure before the first key was changed leaves
// the log open as it was. Stock that an operator set in Redis by hand is lost if no
// command has recorded it yet.
//
// Its errors are those of reconcile, ErrHealthy, and ErrUnjournaled if the journal did
// not catch up in time. It fails for a pool that has no events.
func (r *Recovery) Rebuild(ctx context.Context, options RebuildOptions) (Rebuilt, error) {
	if options.Report == nil {
		options.Report = func(RestoreProgress) {}
	}
	lease, err := r.acquireLease(ctx, options.Wait)
	if err != nil {
		return Rebuilt{}, err
	}
	defer lease.Release()
	c, divergence, err := r.compare(ctx, lease.Conn)
	if divergence == divergenceClosed {
		if err := r.reopenAbandoned(ctx); err != nil {
			return Rebuilt{}, err
		}
		c, divergence, err = r.compare(ctx, lease.Conn)
	}
	if divergence == divergenceLost {
		hold, holdErr := r.holdJournal(ctx)
		if holdErr != nil {
			return Rebuilt{}, holdErr
		}
		defer hold.release()
		c, divergence, err = r.compare(ctx, lease.Conn) // the journal may have grown
	}
	switch {
	case err != nil:
		return Rebuilt{}, err
	case divergence == divergenceNewPool:
		return Rebuilt{}, errors.New("the pool was never set up: there is nothing to rebuild")
	case divergence != divergenceLost && !options.EvenHealthy:
		return Rebuilt{}, ErrHealthy
	}
	if err := r.awaitOtherSellers(ctx, lease.Conn, c.server); err != nil {
		return Rebuilt{}, err
	}
	restore, err := r.newRestorer(ctx, lease, options.Report)
	if err != nil {
		return Rebuilt{}, err
	}
	if divergence == divergenceLost {
		if err = restore.verify(ctx, c); err == nil {
			err = restore.run(ctx, c)
		}
	} else {
		err = restore.replaceHealthy(ctx, c, options.Wait)
	}
	if err != nil {
		return Rebuilt{}, err
	}
	return restore.summary(), nil
}

func (r *restorer) summary() Rebuilt {
	done := Rebuilt{
		Epoch:      r.epoch,
		Seq:        r.state.seq,
		SKUs:       int64(len(r.state.stock)),
		Keys:       int64(len(r.state.keys)),
		Unreadable: r.state.unreadable,
	}
	for _, h := range r.state.holds {
		if h.state == events.StatusActive {
			done.LiveHolds++
		} else {
			done.EndedHolds++
		}
	}
	return done
}

// replaceHealthy rewrites the keys of a Redis that lacks no event. It folds nearly all of
// the journal while commands are still decided, and closes the log only for the rest.
func (r *restorer) replaceHealthy(ctx context.Context, c comparison, waitMax time.Duration) error {
	if err := r.foldWhole(ctx, c.journal.Journaled); err != nil {
		return err
	}
	end, err := r.closeLog(ctx, c.head.Epoch, "")
	if err != nil {
		return err
	}
	epoch, err := r.foldRest(ctx, c, end, waitMax)
	if err != nil {
		return errors.Join(err, r.reopenLog(ctx, c.head.Epoch))
	}
	writer, err := r.beginWriting(ctx, epoch, end, c.server)
	if err == nil {
		err = r.rewrite(ctx, writer)
	}
	if err != nil {
		return fmt.Errorf("Redis is closed for commands, and only partly written; "+
			"any running process of the service restores it, and so does this command if you repeat it: %w",
			err)
	}
	return nil
}

// foldRest waits until the journal has reached the end of the closed log, raises the
// epoch, and folds the events in between. It changes no key.
func (r *restorer) foldRest(
	ctx context.Context, c comparison, end int64, waitMax time.Duration,
) (epoch int64, err error) {
	deadline := time.Now().Add(waitMax)
	for {
		journaled, err := r.journaled(ctx)
		if err != nil {
			return 0, err
		}
		r.report(RestoreProgress{Step: StepWait, Done: journaled, Total: end})
		if journaled >= end {
			break
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%w (the log was closed at seq %d, and after %s the journal was at %d)",
				ErrUnjournaled, end, waitMax, journaled)
		}
		if err := wait.For(ctx, rebuildPoll); err != nil {
			return 0, err
		}
	}
	hold, err := r.holdJournal(ctx)
	if err != nil {
		return 0, err
	}
	defer hold.release()
	epoch, journaled, err := r.raiseEpoch(ctx, r.lease, c)
	if err != nil {
		return 0, err
	}
	if journaled != end {
		return 0, fmt.Errorf("%w: the log was closed at seq %d, and the journal ends at %d",
			ErrForked, end, journaled)
	}
	return epoch, r.foldTo(ctx, end)
}

// reopenLog opens the closed log again as it was. It also runs if the caller's context
// ended.
func (r *Recovery) reopenLog(ctx context.Context, epoch int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), compareTimeout)
	defer cancel()
	keys := []string{r.pool.MetaKey(), r.pool.ClosedMetaKey(), r.pool.NextMetaKey()}
	if err := r.runStep(ctx, reopenScript, statusReopened, keys, epoch); err != nil {
		return fmt.Errorf("the log stays closed until any process of the service looks at it: %w", err)
	}
	return nil
}
