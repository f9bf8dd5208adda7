package recovery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// restorer is one attempt to write a pool's keys from the journal. Its lease keeps other
// attempts from running at the same time. Its epoch stops an attempt that goes on after
// it lost its lease.
//
// A restore takes these steps:
//
//  1. Take the journal's lease (holdJournal), before the comparison: the journal's worker
//     has then written the events that it read before Redis lost them.
//  2. Fold the journal. Raise the epoch in Postgres, which ends batches read in an
//     earlier epoch, and fold the events that came since.
//  3. Close the log, if it still ends at the seq that was compared.
//  4. Take the right to write: create inventory.meta.next, with the epoch.
//  5. Remove the pool's keys, and write them from the folded state.
//  6. Publish: rename inventory.meta.next to inventory.meta. Only now is a command
//     decided again.
//
// If Redis lacks only a few events, nothing is folded in step 2. Between the steps 4 and
// 5, these events are folded onto Redis's own keys, and step 5 removes nothing
// (advance.go).
//
// A process that dies in between leaves the log as it was, or closed; the next comparison
// begins again.
type restorer struct {
	*Recovery
	lease      *worker.Lease
	state      *state
	report     func(RestoreProgress)
	comparedID string // the last stream entry that must be removed, as verify found; "" if none
	epoch      int64  // of the log that was published
	advances   bool   // Redis gets only the events that it lacks; see advance.go
}

// newRestorer returns a restorer that has folded no event yet.
func (r *Recovery) newRestorer(
	ctx context.Context, lease *worker.Lease, report func(RestoreProgress),
) (*restorer, error) {
	keep, err := r.memoryToRestore(ctx, lease.Conn)
	if err != nil {
		return nil, err
	}
	now, err := stream.ReadTime(ctx, r.redis, r.pool)
	if err != nil {
		return nil, err
	}
	return &restorer{
		Recovery: r,
		lease:    lease,
		state:    newState(now.UnixMilli(), keep),
		report:   report,
	}, nil
}

// verify compares the events that a Redis that is behind still has with the journal. The
// log may have been closed by a restorer that died. It fails with ErrForked. The entries
// of a closed log that ends where the journal ends stay on the stream: the restored log
// continues it without a hole, and other consumer groups may not have read them yet.
//
// A log that an operator discarded is not compared: all of its entries are removed.
func (r *restorer) verify(ctx context.Context, c comparison) (err error) {
	if c.isDiscarded() {
		r.comparedID, err = stream.LastID(ctx, r.redis, r.pool)
		return err
	}
	head := c.head
	if !head.Exists {
		if head, err = stream.ReadClosedHead(ctx, r.redis, r.pool); err != nil {
			return err
		}
	}
	if !head.Exists {
		return nil
	}
	lastID, err := journal.CompareStream(ctx, r.redis, r.lease.Conn, r.pool, head.Seq)
	if c.head.Exists || head.Seq < c.journal.Journaled {
		r.comparedID = lastID
	}
	return r.asForked(err)
}

// run restores a Redis that was emptied or is behind, after verify. If advances is set,
// and Redis's keys fit the events that it lacks, only these are written.
func (r *restorer) run(ctx context.Context, c comparison) error {
	if !r.advances { // before a new epoch is taken: a journal that cannot be folded takes none
		if err := r.foldWhole(ctx, c.journal.Journaled); err != nil {
			return err
		}
	}
	epoch, journaled, err := r.raiseEpoch(ctx, r.lease, c)
	if err != nil {
		return err
	}
	if r.advances {
		if journaled != c.journal.Journaled {
			return errChanged
		}
	} else if err := r.foldTo(ctx, journaled); err != nil { // events that came since
		return err
	}
	if c.head.Exists {
		if _, err := r.closeLog(ctx, c.head.Epoch, strconv.FormatInt(c.head.Seq, 10)); err != nil {
			return err
		}
	}
	writer, err := r.beginWriting(ctx, epoch, journaled, c.server)
	if err != nil {
		return err
	}
	if r.advances {
		err := r.foldMissing(ctx, c)
		if errors.Is(err, errCannotAdvance) {
			r.log.Warn("Redis is restored from the whole journal", "pool", r.pool.Name(), "reason", err)
			r.advances = false
			err = r.foldWhole(ctx, journaled)
		}
		if err != nil {
			return err
		}
	}
	return r.rewrite(ctx, writer)
}

// checkComplete fails with ErrJournalIncomplete if a partition of the journal is
// detached. Any other hole is found when the fold reaches it.
func (r *restorer) checkComplete(ctx context.Context) error {
	err := journal.CheckComplete(ctx, r.lease.Conn, r.pool.Name(), 0)
	switch {
	case errors.Is(err, journal.ErrDetached):
		return fmt.Errorf("%w: %w", ErrJournalIncomplete, err)
	case errors.Is(err, journal.ErrHole):
		return nil
	}
	return err
}

func (r *restorer) journaled(ctx context.Context) (int64, error) {
	return worker.ReadCheckpoint(ctx, r.lease.Conn, journal.CheckpointName, r.pool.Name())
}

// foldWhole folds the journal from its first event up to a seq.
func (r *restorer) foldWhole(ctx context.Context, seq int64) error {
	if err := r.checkComplete(ctx); err != nil {
		return err
	}
	return r.foldTo(ctx, seq)
}

// foldTo folds the journal up to a seq, and checks that the result is a state that
// commands can leave.
func (r *restorer) foldTo(ctx context.Context, seq int64) error {
	err := r.state.readJournal(ctx, r.postgres, r.pool.Name(), seq, func(folded int64) {
		r.report(RestoreProgress{Step: StepFold, Done: folded, Total: seq})
	})
	if err != nil {
		return err
	}
	if r.state.seq != seq {
		return fmt.Errorf("the journal's checkpoint fell from %d to %d: %w", r.state.seq, seq, errChanged)
	}
	return r.state.check()
}

// closeLog closes the log, if it is in this epoch and ends at this seq ("" for any), and
// returns the seq that it ends at.
func (r *restorer) closeLog(ctx context.Context, epoch int64, seq string) (end int64, err error) {
	keys := []string{r.pool.MetaKey(), r.pool.ClosedMetaKey()}
	reply, err := closeScript.Run(ctx, r.redis, keys, epoch, seq).StringSlice()
	if err != nil {
		return 0, fmt.Errorf("close the log: %w", err)
	}
	if len(reply) != 2 || reply[0] != statusClosed {
		return 0, errChanged
	}
	return strconv.ParseInt(reply[1], 10, 64)
}

// rewrite removes the pool's keys from Redis, unless it is only advanced, writes keys
// from the folded state, and publishes the log as the last step. No command is decided
// before that, even if a step fails. The writer fails with errOtherServer on a server
// other than the one for which the epoch was raised.
func (r *restorer) rewrite(ctx context.Context, writer *keyWriter) error {
	writer.keepsKeys = r.advances
	if !r.advances {
		r.report(RestoreProgress{Step: StepRemove})
		err := writer.removeKeys(ctx, r.state, func(keys int64) {
			r.report(RestoreProgress{Step: StepRemove, Done: keys})
		})
		if err != nil {
			return err
		}
	}
	if r.comparedID != "" {
		if err := writer.trimStream(ctx, r.comparedID); err != nil {
			return err
		}
	}
	total := r.state.keyCount()
	var done atomic.Int64
	err := writer.writeKeys(ctx, r.state, func(keys int) {
		r.report(RestoreProgress{
			Step:  StepWrite,
			Done:  min(total, done.Add(int64(keys))),
			Total: total,
		})
	})
	if err != nil {
		return err
	}
	r.report(RestoreProgress{Step: StepPublish})
	if err := journal.ClearFault(ctx, r.lease.Conn, r.pool.Name()); err != nil {
		return err
	}
	if err := r.publish(ctx, writer); err != nil {
		return err
	}
	r.epoch = writer.epoch
	r.gate.Acknowledge(writer.epoch, r.state.seq)
	return journal.ClearDiscarded(ctx, r.lease.Conn, r.pool.Name())
}

// beginWriting takes the right to write keys to a server, for a log that continues from a
// seq. If Redis is only advanced, it fails with errChanged after another restorer has
// begun, which may have removed keys.
func (r *restorer) beginWriting(
	ctx context.Context, epoch, seq int64, server stream.Server,
) (*keyWriter, error) {
	which := "all"
	if r.advances {
		which = "some"
	}
	keys := []string{r.pool.MetaKey(), r.pool.NextMetaKey()}
	if err := r.runStep(ctx, beginRestoreScript, statusBegun, keys, epoch, seq, which); err != nil {
		return nil, err
	}
	return &keyWriter{
		redis:  r.redis,
		pool:   r.pool,
		epoch:  epoch,
		server: server,
	}, nil
}

// publish opens the log that the writer has written, if all of it is still there.
func (r *restorer) publish(ctx context.Context, w *keyWriter) error {
	keys := []string{r.pool.MetaKey(), r.pool.ClosedMetaKey(), r.pool.NextMetaKey()}
	args := []any{w.epoch, w.server.RunID, w.server.ReplicationID}
	return r.runStep(ctx, publishScript, statusPublished, keys, args...)
}

// runStep runs a script that answers a successful step with the one status word want.
func (r *Recovery) runStep(
	ctx context.Context, script *redis.Script, want string, keys []string, args ...any,
) error {
	reply, err := script.Run(ctx, r.redis, keys, args...).StringSlice()
	if err != nil {
		return fmt.Errorf("replace the log: %w", err)
	}
	if len(reply) != 1 {
		return fmt.Errorf("replace the log: the script answered %v, want %s", reply, want)
	}
	switch reply[0] {
	case want:
		return nil
	case statusOpen, statusChanged:
		return errChanged
	case statusSuperseded:
		return errSuperseded
	case statusOtherServer:
		return errOtherServer
	}
	return fmt.Errorf("replace the log: the script answered %v, want %s", reply, want)
}
