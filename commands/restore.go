package commands

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

// Progress is how far restoring Redis has come. Total is 0 where nobody knows.
type Progress struct {
	Step        string // one of the steps below, in their order
	Done, Total int64  // events, keys
}

// The steps of restoring.
const (
	StepFold    = "fold the journal"     // events
	StepWait    = "wait for the journal" // events
	StepRemove  = "remove old keys"      // keys
	StepWrite   = "write keys"           // keys
	StepPublish = "open the log"         // nothing to count
)

// errChanged is returned when what was compared is no longer so: it is to be compared again.
var errChanged = errors.New("the log changed while it was looked at")

// restoring is one attempt to write a pool's keys anew from the journal. Its lease keeps others from trying at the same
// time, and its epoch keeps out one that tries although it has lost its lease.
type restoring struct {
	*Service
	postgres *pgx.ConnConfig
	lease    *worker.Lease
	fold     *fold
	report   func(Progress)
	lastID   string // the last entry of a stream that lacks what the journal has
	epoch    int64  // of the log that was opened in the end
}

func (s *Service) newRestoring(ctx context.Context, postgres *pgx.ConnConfig, lease *worker.Lease, report func(Progress)) (*restoring, error) {
	// A detached part is named at once; any other hole is met when the fold comes to it.
	whole := journal.CheckComplete(ctx, lease.Conn, s.pool.Name(), 0)
	switch {
	case errors.Is(whole, journal.ErrDetached):
		return nil, fmt.Errorf("%w: %w", ErrJournalIncomplete, whole)
	case whole != nil && !errors.Is(whole, journal.ErrHole):
		return nil, whole
	}
	nowMs, err := redisNow(ctx, s.redis)
	if err != nil {
		return nil, err
	}
	return &restoring{Service: s, postgres: postgres, lease: lease, fold: newFold(nowMs, s.config.KeepMemory), report: report}, nil
}

// verify compares what a Redis that is behind still has with the journal. It fails with ErrForked.
func (r *restoring) verify(ctx context.Context, both sides) (err error) {
	if both.log.Exists {
		r.lastID, err = journal.CompareStream(ctx, r.redis, r.lease.Conn, r.pool, both.log.Seq)
	}
	return r.forked(err)
}

// restore writes the keys of a Redis anew that was emptied or is behind, and was verified. A process that dies in here
// leaves the log as it was, or closed, which the next one restores.
func (r *restoring) restore(ctx context.Context, both sides) error {
	if err := r.foldAtRest(ctx); err != nil {
		return err
	}
	epoch, journaled, err := journal.RaiseEpoch(ctx, r.lease.Conn, r.pool.Name(), max(both.log.Epoch, both.knownEpoch))
	if err != nil {
		return err
	}
	if err := r.foldTo(ctx, journaled); err != nil {
		return err
	}
	if both.log.Exists {
		if _, err := r.close(ctx, both.log.Epoch, strconv.FormatInt(both.log.Seq, 10)); err != nil {
			return err
		}
	}
	return r.rewrite(ctx, epoch)
}

// restInterval is how long the journal's checkpoint must have rested. Tests set it lower.
var restInterval = 500 * time.Millisecond

const restMax = 10 * time.Second // how long that is waited for

// foldAtRest folds the journal, and waits until the journal has written what it had read from Redis before Redis lost
// it: those events were acknowledged. That nothing comes later is made sure of by RaiseEpoch, not here.
func (r *restoring) foldAtRest(ctx context.Context) error {
	began := time.Now()
	for seen, seenAt := int64(-1), began; ; {
		journaled, err := r.journaled(ctx)
		switch {
		case err != nil:
			return err
		case journaled != seen:
			seen, seenAt = journaled, time.Now()
		case time.Since(seenAt) >= restInterval: // while it was folded, perhaps
			return nil
		}
		if err := r.foldTo(ctx, journaled); err != nil {
			return err
		}
		if time.Since(began) > restMax {
			return nil
		}
		if err := wait.For(ctx, max(0, restInterval-time.Since(seenAt))); err != nil {
			return err
		}
	}
}

func (r *restoring) journaled(ctx context.Context) (int64, error) {
	return worker.ReadCheckpoint(ctx, r.lease.Conn, journal.CheckpointName, r.pool.Name())
}

// foldTo brings the fold to a seq, and holds that it is a state that could have been.
func (r *restoring) foldTo(ctx context.Context, seq int64) error {
	err := r.fold.readJournal(ctx, r.postgres, r.pool.Name(), seq, func(folded int64) {
		r.report(Progress{Step: StepFold, Done: folded, Total: seq})
	})
	if err != nil {
		return err
	}
	if r.fold.seq != seq {
		return fmt.Errorf("the journal's checkpoint fell from %d to %d: %w", r.fold.seq, seq, errChanged)
	}
	return r.fold.check()
}

// close puts the log aside, if it is in an epoch and ends at a seq ("" for wherever), and returns where it ends.
func (r *restoring) close(ctx context.Context, epoch int64, seq string) (end int64, err error) {
	reply, err := closeScript.Run(ctx, r.redis, []string{r.pool.MetaKey(), r.pool.ClosedMetaKey()}, epoch, seq).StringSlice()
	if err != nil {
		return 0, fmt.Errorf("close the log: %w", err)
	}
	if len(reply) != 2 || reply[0] != statusClosed {
		return 0, errChanged
	}
	return strconv.ParseInt(reply[1], 10, 64)
}

// rewrite removes what Redis has of the pool, writes what the fold came to, and opens the log as the very last step.
// Nobody can sell in between, whatever happens.
func (r *restoring) rewrite(ctx context.Context, epoch int64) error {
	writer, err := r.begin(ctx, epoch)
	if err != nil {
		return err
	}
	r.report(Progress{Step: StepRemove})
	err = writer.remove(ctx, func(keys int64) { r.report(Progress{Step: StepRemove, Done: keys}) })
	if err != nil {
		return err
	}
	if r.lastID != "" {
		if err := writer.forget(ctx, r.lastID); err != nil {
			return err
		}
	}
	total := int64(len(r.fold.stock) + len(r.fold.holds) + len(r.fold.keys))
	var done atomic.Int64
	err = writer.write(ctx, r.fold, func(keys int) {
		r.report(Progress{Step: StepWrite, Done: min(total, done.Add(int64(keys))), Total: total})
	})
	if err != nil {
		return err
	}
	r.report(Progress{Step: StepPublish})
	if err := r.publish(ctx, writer); err != nil {
		return err
	}
	r.epoch = epoch
	r.fence.saw(epoch, r.fold.seq)
	return nil
}

// begin takes the right to write. The Redis is looked at first: what is written to another one counts for nothing.
func (r *restoring) begin(ctx context.Context, epoch int64) (*restoreWriter, error) {
	server, err := readServer(ctx, r.redis)
	if err != nil {
		return nil, err
	}
	keys := []string{r.pool.MetaKey(), r.pool.NextMetaKey()}
	if err := r.step(ctx, beginRestoreScript, statusBegun, keys, epoch, r.fold.seq); err != nil {
		return nil, err
	}
	return &restoreWriter{redis: r.redis, pool: r.pool, epoch: epoch, server: server}, nil
}

// publish opens what a writer has written, if it is all still there.
func (r *restoring) publish(ctx context.Context, w *restoreWriter) error {
	keys := []string{r.pool.MetaKey(), r.pool.ClosedMetaKey(), r.pool.NextMetaKey()}
	return r.step(ctx, publishScript, statusPublished, keys, w.epoch, w.server.runID, w.server.replicationID)
}

// step runs a script that must answer one word.
func (s *Service) step(ctx context.Context, script *redis.Script, want string, keys []string, args ...any) error {
	reply, err := script.Run(ctx, s.redis, keys, args...).StringSlice()
	switch {
	case err != nil:
		return fmt.Errorf("write the log anew: %w", err)
	case len(reply) == 1 && reply[0] == want:
		return nil
	case len(reply) == 1 && (reply[0] == statusOpen || reply[0] == statusChanged):
		return errChanged
	case len(reply) == 1 && reply[0] == statusSuperseded:
		return errSuperseded
	case len(reply) == 1 && reply[0] == statusOtherServer:
		return errOtherServer
	}
	return fmt.Errorf("write the log anew: answered %v, want %s", reply, want)
}

// adopt declares a log that is whole, but of an earlier life, to be in a new one.
func (s *Service) adopt(ctx context.Context, conn *pgx.Conn, both sides) error {
	epoch, journaled, err := journal.RaiseEpoch(ctx, conn, s.pool.Name(), max(both.log.Epoch, both.knownEpoch))
	if err != nil {
		return err
	}
	if journaled != both.record.Journaled {
		return errChanged
	}
	return s.step(ctx, raiseEpochScript, statusRaised, []string{s.pool.MetaKey()}, both.log.Epoch, epoch, both.log.Seq)
}
