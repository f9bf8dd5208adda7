package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// reconcileAttempts is how often Redis is compared with the journal. Each step of
// reconcile is followed by a comparison, and so is a log that changed meanwhile.
const reconcileAttempts = 10

// errChanged is returned when the log changed since it was compared. The caller compares
// again.
var errChanged = errors.New("the log changed while it was compared with the journal")

// reconcile compares Redis with the journal and takes the step that follows, until the
// two fit together. The caller holds the lease. Its errors are ErrUnjournaled, ErrForked,
// ErrSplitBrain, ErrJournalStopped, ErrStreamGap, journal.ErrOtherSeller,
// ErrJournalIncomplete, ErrJournalUnsound, and those of the two stores.
func (r *Recovery) reconcile(ctx context.Context, lease *worker.Lease) error {
	held := false
	for attempt := 1; ; attempt++ {
		c, divergence, err := r.compare(ctx, lease.Conn)
		if divergence.raisesEpoch() && !held {
			hold, err := r.holdJournal(ctx)
			if err != nil {
				return err
			}
			defer hold.release()
			held = true
			continue // the journal may have grown
		}
		switch divergence {
		case divergenceUnknown:
			return err
		case divergenceNone:
			r.gate.Acknowledge(c.head.Epoch, c.head.Seq)
			if err := journal.ClearDiscarded(ctx, lease.Conn, r.pool.Name()); err != nil {
				return err
			}
			return journal.RecordPool(ctx, lease.Conn, r.pool.Name(), c.head.Epoch)
		case divergenceNewPool:
			err = r.initialise(ctx)
		case divergenceClosed:
			err = r.reopenAbandoned(ctx)
		case divergenceEpoch, divergenceServer:
			err = r.keepLog(ctx, lease, c)
		case divergenceLost:
			err = r.restore(ctx, lease, c)
		}
		if err != nil && !errors.Is(err, errChanged) {
			return err
		}
		if attempt == reconcileAttempts {
			return errors.Join(err, errChanged)
		}
	}
}

// initialise creates the log of a pool that never had one. Redis comes first and Postgres
// second: a crash in between leaves an empty log, which fits the empty journal.
func (r *Recovery) initialise(ctx context.Context) error {
	keys := []string{r.pool.MetaKey()}
	reply, err := initialiseScript.Run(ctx, r.redis, keys, journal.FirstEpoch).StringSlice()
	if err != nil || len(reply) != 1 || reply[0] != statusInitialised && reply[0] != statusExists {
		return fmt.Errorf("initialise the log: %v: %w", reply, err)
	}
	return nil
}

// reopenAbandoned opens a log that a process closed before it ended. That process changed
// no key, so the next comparison decides as if it had never begun. The caller holds the
// lease, so the process does not go on.
func (r *Recovery) reopenAbandoned(ctx context.Context) error {
	closed, err := stream.ReadClosedHead(ctx, r.redis, r.pool)
	if err != nil {
		return err
	}
	r.log.Warn("a rebuild or repair ended before it changed a key; Redis's log is opened again",
		"pool", r.pool.Name(), "epoch", closed.Epoch, "seq", closed.Seq)
	return r.reopenLog(ctx, closed.Epoch)
}

// keepLog moves Redis's log into a new epoch, and records the server that it is on. The
// log has every event of the journal, but an earlier epoch, or it was on another server.
// The new epoch ends batches that the journal read before: if Redis lost their events, it
// may give their seqs to other events.
func (r *Recovery) keepLog(ctx context.Context, lease *worker.Lease, c comparison) error {
	r.log.Warn("Redis has every event of the journal; its log is kept, in a new epoch",
		"pool", r.pool.Name(),
		"reason", c.lossReason(),
		"epoch", c.head.Epoch,
		"seq", c.head.Seq,
		"journaled", c.journal.Journaled,
		"newest_epoch", c.newestEpoch(),
		"acknowledged", c.knownSeq)
	epoch, journaled, err := r.raiseEpoch(ctx, lease, c)
	if err != nil {
		return err
	}
	if journaled != c.journal.Journaled {
		return errChanged
	}
	keys := []string{r.pool.MetaKey()}
	return r.runStep(ctx, raiseEpochScript, statusRaised, keys,
		c.head.Epoch, epoch, c.head.Seq, c.server.ReplicationID)
}

// raiseEpoch begins a new epoch for the server that was compared; see journal.RaiseEpoch.
// It fails with journal.ErrOtherSeller while a process sells on another server.
func (r *Recovery) raiseEpoch(
	ctx context.Context, lease *worker.Lease, c comparison,
) (epoch, journaled int64, err error) {
	silent, err := r.refuseOtherSellers(ctx, lease.Conn, c.server)
	if err != nil {
		return 0, 0, err
	}
	return journal.RaiseEpoch(ctx, lease.Conn, r.pool.Name(), journal.Raise{
		Above:  max(c.head.Epoch, c.knownEpoch),
		Server: c.server.ReplicationID,
		Silent: silent,
	})
}

// restore restores Redis from the journal, after Redis was emptied or fell behind.
func (r *Recovery) restore(ctx context.Context, lease *worker.Lease, c comparison) error {
	if _, err := r.refuseOtherSellers(ctx, lease.Conn, c.server); err != nil {
		return err
	}
	logged := logProgress(r.log, r.pool.Name())
	restore, err := r.newRestorer(ctx, lease, func(p RestoreProgress) {
		r.gate.Close(fmt.Errorf("%w; it is being restored from the journal: %s, %d of %d",
			c.lossReason(), p.Step, p.Done, p.Total))
		logged(p)
	})
	if err != nil {
		return err
	}
	if err := restore.verify(ctx, c); err != nil {
		return err
	}
	if restore.advances, err = restore.mayAdvance(ctx, c); err != nil {
		return err
	}
	r.log.Warn("restoring Redis from the journal",
		"pool", r.pool.Name(), "reason", c.lossReason(), "journaled", c.journal.Journaled)
	if err := restore.run(ctx, c); err != nil {
		return fmt.Errorf("restore Redis from the journal: %w", err)
	}
	if restore.advances {
		r.log.Warn("Redis is advanced to the journal's end",
			"pool", r.pool.Name(),
			"epoch", restore.epoch,
			"seq", restore.state.seq,
			"events", restore.state.seq-c.head.Seq)
		return nil
	}
	done := restore.summary()
	r.log.Warn("Redis is restored from the journal",
		"pool", r.pool.Name(),
		"epoch", done.Epoch,
		"seq", done.Seq,
		"skus", done.SKUs,
		"live_holds", done.LiveHolds,
		"ended_holds", done.EndedHolds,
		"keys", done.Keys,
		"unreadable_events", done.Unreadable)
	return nil
}
