package recovery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Reasons for which a pool takes no commands.
var (
	// ErrUnjournaled passes by itself: Redis is not restored while it still has events
	// that the journal lacks.
	ErrUnjournaled = errors.New("Redis lost its position in the log, and still has events that the journal lacks; waiting for the journal")
	// ErrForked needs an operator: Redis and the journal have different events under one
	// seq, and only one of the two logs can go on.
	ErrForked = errors.New("Redis and the journal have forked")
	// ErrSplitBrain needs an operator: another Redis took this one's place, and this one
	// runs on without a restart.
	ErrSplitBrain = errors.New("split brain: commands were decided in two Redis servers")
	// ErrJournalStopped needs an operator: the journal stopped at a hole or a fork of the
	// stream, and what is decided behind it can never be journaled.
	ErrJournalStopped = errors.New("the journal stopped")
	// ErrStreamGap needs an operator: Redis decided events that neither the journal nor
	// the stream has, so nothing that follows them can be journaled.
	ErrStreamGap = errors.New("events are lost between Redis and the journal")
)

// divergence says how Redis's log differs from the journal.
type divergence int

const (
	divergenceUnknown divergence = iota // the comparison failed; its error says why
	divergenceNone                      // level, or Redis is ahead and the journal will catch up
	divergenceNewPool                   // neither Redis nor the journal has seen the pool
	divergenceEpoch                     // Redis has every event of the journal, but an earlier epoch
	divergenceServer                    // likewise, but it restarted, or another Redis took its place
	divergenceLost                      // Redis was emptied or is behind: the journal has events it lacks
	divergenceClosed                    // a process closed the log, and ended before it changed a key
)

// raisesEpoch reports whether the step that follows begins a new epoch of the log, which
// fences the journal's worker.
func (d divergence) raisesEpoch() bool {
	return d == divergenceEpoch || d == divergenceServer || d == divergenceLost
}

// comparison is the state of both logs. The acknowledged position and the journal's state
// are read before Redis's log head, which can only have grown since.
type comparison struct {
	knownEpoch int64 // the highest position that Redis acknowledged to this process
	knownSeq   int64
	journal    journal.PoolRecord
	server     stream.Server // that answered
	head       stream.Head
}

// newestEpoch returns the highest epoch that Postgres or this process knows.
func (c comparison) newestEpoch() int64 { return max(c.journal.Epoch, c.knownEpoch) }

// isOtherServer reports whether the log was not compared with the journal since it came
// to the server that answered. That server may have lost its newest events.
func (c comparison) isOtherServer() bool { return c.head.Server != c.server.ReplicationID }

// isEarlierEpoch reports whether Redis's log is of an epoch before the newest, or ends
// before the position acknowledged to this process. The decide script refuses such a log
// as stale.
func (c comparison) isEarlierEpoch() bool {
	return c.head.Epoch < c.newestEpoch() || c.head.Epoch == c.knownEpoch && c.head.Seq < c.knownSeq
}

// isDiscarded reports whether an operator decided to discard the log in Redis.
func (c comparison) isDiscarded() bool {
	restored := c.head.Exists && c.head.Epoch > c.journal.DiscardedEpoch
	return c.journal.DiscardedEpoch != 0 && !restored
}

// lossReason explains why Redis must be restored, or its log moved into a new epoch.
func (c comparison) lossReason() error {
	if c.isDiscarded() {
		return errors.New("the pool is being repaired: Redis's log was discarded")
	}
	if c.head.Unfinished {
		return errors.New("Redis refused some writes of a command, after it had recorded the command")
	}
	if !c.head.Exists {
		return fmt.Errorf("Redis was emptied: it has no log for this pool, which has been in use "+
			"(the journal ends at seq %d)", c.journal.Journaled)
	}
	if c.isOtherServer() && !c.isEarlierEpoch() && c.head.Seq >= c.journal.Journaled {
		return errors.New("Redis restarted, or another Redis took its place")
	}
	const behind = "Redis is behind the journal: it was restored from an older state"
	if c.head.Seq >= c.journal.Journaled {
		return fmt.Errorf("%s (Redis's log is of epoch %d, the newest is %d)",
			behind, c.head.Epoch, c.newestEpoch())
	}
	return fmt.Errorf("%s (Redis ends at seq %d in epoch %d, the journal at %d in epoch %d)",
		behind, c.head.Seq, c.head.Epoch, c.journal.Journaled, c.newestEpoch())
}

// isSplitBrain reports whether a process moved the pool to another Redis while this one
// ran on. A restore that ended halfway leaves an earlier epoch, too, but Postgres then
// has this server's name with the newest epoch.
func (c comparison) isSplitBrain() bool {
	moved := c.journal.Server != "" && c.journal.Server != c.server.ReplicationID
	return moved && c.head.Epoch < c.journal.Epoch && !c.isOtherServer()
}

// compare compares Redis's log with the journal. It fails with ErrRightsMissing,
// ErrUnjournaled, ErrForked, ErrSplitBrain, ErrJournalStopped or ErrStreamGap, or with
// the error of the store that did not answer.
func (r *Recovery) compare(ctx context.Context, db postgres.Querier) (comparison, divergence, error) {
	var c comparison
	var err error
	if c.server, err = stream.ReadServer(ctx, r.redis, r.pool); err != nil {
		return c, divergenceUnknown, err
	}
	if err := checkVersion(c.server.Version); err != nil {
		return c, divergenceUnknown, err
	}
	if err := r.checkRights(ctx); err != nil {
		return c, divergenceUnknown, err
	}
	c.knownEpoch, c.knownSeq = r.gate.Acknowledged()
	if c.journal, err = journal.ReadPoolRecord(ctx, db, r.pool.Name()); err != nil {
		return c, divergenceUnknown, err
	}
	if c.head, err = stream.ReadHead(ctx, r.redis, r.pool); err != nil {
		return c, divergenceUnknown, err
	}
	if c.isDiscarded() && !c.isSplitBrain() {
		return c, divergenceLost, nil
	}
	if !c.head.Exists {
		divergence, err := r.compareEmptied(ctx, db, c)
		return c, divergence, err
	}
	if c.isSplitBrain() {
		return c, divergenceUnknown, fmt.Errorf(
			"%w: in epoch %d, the pool was moved to server %s; this Redis is server %s, in epoch %d, and did not restart. %s",
			ErrSplitBrain, c.journal.Epoch, c.journal.Server,
			c.server.ReplicationID, c.head.Epoch, r.splitBrainAdvice())
	}
	agrees, err := r.agreesAtJournalEnd(ctx, c)
	switch {
	case err != nil:
		return c, divergenceUnknown, err
	case c.head.Seq < c.journal.Journaled:
		return c, divergenceLost, nil
	case !c.isEarlierEpoch() && c.isOtherServer():
		return c, divergenceServer, nil
	case !c.isEarlierEpoch():
		if err := r.checkJournalFollows(ctx, db, c, c.head.Seq); err != nil {
			return c, divergenceUnknown, err
		}
		return c, divergenceNone, nil
	case agrees:
		return c, divergenceEpoch, nil
	case c.head.Seq == c.journal.Journaled:
		return c, divergenceLost, nil
	}
	return c, divergenceUnknown, fmt.Errorf(
		"%w: Redis's log is of epoch %d and ends at seq %d, the newest epoch is %d, and the stream no longer has seq %d to compare the two by. %s",
		ErrForked, c.head.Epoch, c.head.Seq, c.newestEpoch(), c.journal.Journaled, forkAdvice)
}

// Check compares Redis with the journal once, changes nothing, and describes the state of
// the two. Its errors are those of compare.
func (r *Recovery) Check(ctx context.Context, db postgres.Querier) (found string, err error) {
	c, divergence, err := r.compare(ctx, db)
	switch {
	case err != nil:
		return "", err
	case divergence == divergenceNewPool:
		return "the pool was never used", nil
	case divergence == divergenceClosed:
		return "a rebuild or repair closed Redis's log; if it ended, a running process opens the log again", nil
	case divergence.raisesEpoch():
		return fmt.Sprintf("%s; a running process sees to that", c.lossReason()), nil
	}
	return fmt.Sprintf("Redis's log ends at seq %d, the journal at %d", c.head.Seq, c.journal.Journaled), nil
}

// checkJournalFollows fails if the journal can never reach the end of Redis's log: with
// ErrJournalStopped or ErrStreamGap.
func (r *Recovery) checkJournalFollows(
	ctx context.Context, db postgres.Querier, c comparison, end int64,
) error {
	if c.journal.Fault != "" && c.journal.DiscardedEpoch == 0 { // the fault was in the discarded log
		return fmt.Errorf("%w: %s. Nothing is sold until the stream is repaired; the journal then goes on by itself. "+
			"If the stream cannot be repaired: %s", ErrJournalStopped, c.journal.Fault, repairAdvice)
	}
	gap, err := stream.FindGap(ctx, r.redis, r.pool, c.journal.Journaled, end)
	if err != nil || gap == (stream.Gap{}) {
		return err
	}
	// The journal may have taken these events meanwhile, and the stream have been
	// trimmed.
	now, err := journal.ReadPoolRecord(ctx, db, r.pool.Name())
	if err != nil || now.Journaled != c.journal.Journaled {
		return err
	}
	return fmt.Errorf("%w: the journal ends at seq %d, Redis's log at %d, and the stream lacks the events %d to %d. %s",
		ErrStreamGap, c.journal.Journaled, end, gap.First, gap.Last, repairAdvice)
}

// repairAdvice says how an operator decides which log goes on.
const repairAdvice = "`stockstream redis repair` shows the losses if Redis is kept, and if the journal is kept, " +
	"and repairs the pool"

// compareEmptied is compare for a Redis without a log head.
func (r *Recovery) compareEmptied(
	ctx context.Context, db postgres.Querier, c comparison,
) (divergence, error) {
	closed, err := stream.ReadClosedHead(ctx, r.redis, r.pool)
	if err != nil {
		return divergenceUnknown, err
	}
	if closed.Exists {
		// A restore writes the next log head before it changes any other key. A present
		// head that cannot be read was damaged after that.
		others, err := r.redis.Exists(ctx, r.pool.NextMetaKey(), r.pool.MetaKey()).Result()
		if err != nil {
			return divergenceUnknown, fmt.Errorf("look for a restore: %w", err)
		}
		if others == 0 {
			return divergenceClosed, nil
		}
	}
	tail, err := stream.Tail(ctx, r.redis, r.pool)
	if err != nil {
		return divergenceUnknown, err
	}
	entries, err := r.redis.XLen(ctx, r.pool.StreamKey()).Result()
	if err != nil {
		return divergenceUnknown, fmt.Errorf("read the stream's length: %w", err)
	}
	end := max(tail, closed.Seq)
	switch {
	case end > c.journal.Journaled:
		if err := r.checkJournalFollows(ctx, db, c, end); err != nil {
			return divergenceUnknown, err
		}
		return divergenceUnknown, fmt.Errorf("%w (Redis has events up to seq %d, the journal ends at %d)",
			ErrUnjournaled, end, c.journal.Journaled)
	case c.journal.Epoch == 0 && c.journal.Journaled == 0 && entries == 0:
		return divergenceNewPool, nil
	}
	return divergenceLost, nil
}

// scanMax bounds how many entries, from the stream's end backwards, are scanned for the
// journal's last event each second. A journal that is further behind compares the event
// itself when it reaches it.
const scanMax = 2000

// agreesAtJournalEnd compares the journal's last event with the stream's entry of the
// same seq. An event is appended once and never changed, so two logs that agree in one
// event agree in every event before it. It fails with ErrForked if the two differ, and
// returns false if the stream no longer has the entry.
func (r *Recovery) agreesAtJournalEnd(ctx context.Context, c comparison) (bool, error) {
	seq := c.journal.Journaled
	if seq == 0 {
		return true, nil
	}
	if c.head.Seq < seq || c.journal.LastID == uuid.Nil {
		return false, nil
	}
	limit := int64(scanMax)
	if c.isEarlierEpoch() {
		limit = 0 // scan the whole stream
	}
	id, found, err := stream.FindEntry(ctx, r.redis, r.pool, seq, limit)
	if err != nil || !found {
		return false, err
	}
	if id != c.journal.LastID {
		return false, fmt.Errorf("%w: seq %d is event %s in the journal and event %s in Redis. %s",
			ErrForked, seq, c.journal.LastID, id, forkAdvice)
	}
	return true, nil
}

// forkAdvice says how an operator ends a fork.
const forkAdvice = "Nothing was changed, and nothing is sold until you decide. " +
	"If Redis was started on an old copy of its data and the newer data still exist, start it on those. Otherwise " +
	repairAdvice

// splitBrainAdvice says how an operator ends a split brain.
func (r *Recovery) splitBrainAdvice() string {
	return fmt.Sprintf("Nothing is sold here until you decide. If the other Redis goes on, point this process at it. "+
		"If this one goes on, end the other one, and then run `redis-cli HDEL %s server` here: "+
		"this Redis is then compared with the journal as after a restart", r.pool.MetaKey())
}

// asForked turns journal.ErrFork into ErrForked, and returns any other error as it is.
func (r *Recovery) asForked(err error) error {
	if errors.Is(err, journal.ErrFork) {
		return fmt.Errorf("%w: %w. %s", ErrForked, err, forkAdvice)
	}
	return err
}

// checkVersion fails for a Redis that is too old for the scripts and the journal. A Redis
// that does not report its version passes.
func checkVersion(version string) error {
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < 7 {
		return fmt.Errorf("Redis %s is too old: StockStream needs 7.0 or newer", version)
	}
	return nil
}
