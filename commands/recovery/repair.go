package recovery

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
)

// Side is the log that a repair keeps.
type Side string

// The journal is kept by restoring Redis from it. Redis is kept by recording the
// differences in the journal, before Redis is restored from it.
const (
	SideNone    Side = "" // only look
	SideJournal Side = "journal"
	SideRedis   Side = "redis"
)

// RepairOptions say how to repair a pool.
type RepairOptions struct {
	Keep Side
	// Wait bounds how long another process that restores the pool may take.
	Wait time.Duration
	// Save receives everything that the journal lacks, as lines of JSON, and must have
	// stored it when it returns. It is not called for SideNone.
	Save func(write func(io.Writer) error) error
	// Report receives the progress, from several goroutines. It may be nil.
	Report func(RestoreProgress)
}

// Repair describes a pool whose Redis and journal do not fit together, and its repair.
type Repair struct {
	Reason    error // ErrForked, ErrJournalStopped or ErrStreamGap
	Journaled int64 // the seq at which the journal ended before the repair
	RedisEnd  int64 // the seq at which Redis's log ended; 0 if it has none
	Streamed  int64 // entries on the stream that the journal lacks
	Facts     RedisFacts
	Recorded  int64 // events that keeping Redis records in the journal

	Done Rebuilt // the log that was published; zero for SideNone
}

// Errors of Repair.
var (
	// ErrNothingToRepair is returned if Redis and the journal fit together.
	ErrNothingToRepair = errors.New("Redis and the journal fit together: there is nothing to repair")
	// ErrOnlyJournal is returned for SideRedis if Redis has no log, or one that ends
	// before the journal.
	ErrOnlyJournal = errors.New("only the journal can be kept")
)

// Repair ends a state in which Redis and the journal do not fit together and no process
// can decide which of them goes on. With SideNone it only counts the differences. It
// first takes the steps that a running process takes by itself.
//
// A process that dies before DiscardLog has committed leaves the log closed, and the next
// look of any process opens it again. After that, any process completes the restore.
//
// Its errors are ErrNothingToRepair, ErrOnlyJournal and those of reconcile.
func (r *Recovery) Repair(ctx context.Context, options RepairOptions) (Repair, error) {
	if options.Report == nil {
		options.Report = func(RestoreProgress) {}
	}
	lease, err := r.acquireLease(ctx, options.Wait)
	if err != nil {
		return Repair{}, err
	}
	defer lease.Release()
	reason := r.reconcile(ctx, lease)
	switch {
	case reason == nil:
		return Repair{}, ErrNothingToRepair
	case !needsOperator(reason):
		return Repair{}, reason
	}
	if options.Keep != SideNone {
		hold, err := r.holdJournal(ctx)
		if err != nil {
			return Repair{}, err
		}
		defer hold.release()
	}
	c, divergence, err := r.compare(ctx, lease.Conn)
	switch {
	case divergence == divergenceNone: // the journal has gone on meanwhile
		return Repair{}, ErrNothingToRepair
	case divergence == divergenceLost && errors.Is(reason, ErrForked):
		// Redis is behind the journal, and its stream has other events than the journal.
	case err == nil:
		return Repair{}, errChanged
	case !needsOperator(err):
		return Repair{}, err
	default:
		reason = err
	}
	restore, err := r.newRestorer(ctx, lease, options.Report)
	if err != nil {
		return Repair{}, err
	}
	repair := &repairer{restorer: restore, c: c}
	repair.Reason = reason
	if options.Keep == SideNone {
		return repair.Repair, repair.look(ctx, r.pool.MetaKey())
	}
	err = repair.run(ctx, options)
	return repair.Repair, err
}

// needsOperator reports whether an error says that an operator must decide which log goes
// on.
func needsOperator(err error) bool {
	return errors.Is(err, ErrForked) || errors.Is(err, ErrJournalStopped) || errors.Is(err, ErrStreamGap)
}

// repairer is one call of Repair. Its restorer restores Redis in the end.
type repairer struct {
	*restorer
	Repair
	c comparison

	facts []fact // the differences
}

// look compares the keys of Redis, whose log head is at metaKey, with the journal.
func (r *repairer) look(ctx context.Context, metaKey string) error {
	r.Journaled = r.c.journal.Journaled
	r.RedisEnd = r.c.head.Seq
	if err := r.foldWhole(ctx, r.Journaled); err != nil {
		return err
	}
	found, err := r.readRedisState(ctx, metaKey)
	if err != nil {
		return err
	}
	if err := r.checkUnchanged(ctx, metaKey); err != nil {
		return err
	}
	if err := r.forgetJournaled(ctx, found); err != nil {
		return err
	}
	now, err := stream.ReadTime(ctx, r.redis, r.pool)
	if err != nil {
		return err
	}
	r.Facts, r.facts = r.state.differ(found, now.UnixMilli())
	r.Recorded = int64(len(r.facts))
	r.Streamed = 0
	return r.visitLacking(ctx, func(events.Entry) error {
		r.Streamed++
		return nil
	})
}

// checkUnchanged fails with errChanged if the keys were not all read from the Redis that
// was compared, or if a command was decided meanwhile. A restarted or promoted Redis
// begins a scan again, and may lack keys.
func (r *repairer) checkUnchanged(ctx context.Context, metaKey string) error {
	server, err := stream.ReadServer(ctx, r.redis, r.pool)
	if err != nil {
		return err
	}
	if server != r.c.server {
		return errOtherServer
	}
	head, err := stream.ReadHead(ctx, r.redis, r.pool)
	if metaKey == r.pool.ClosedMetaKey() {
		head, err = stream.ReadClosedHead(ctx, r.redis, r.pool)
	}
	if err == nil && head != r.c.head {
		err = errChanged
	}
	return err
}

// forgetJournaled removes from Redis's state the holds that the journal has, and that the
// fold dropped because Redis was about to forget them.
func (r *repairer) forgetJournaled(ctx context.Context, found *redisState) error {
	var unknown []string
	for id := range found.holds {
		if r.state.holds[id] == nil {
			unknown = append(unknown, id)
		}
	}
	known, err := journal.KnownHolds(ctx, r.lease.Conn, r.pool.Name(), unknown)
	for id := range known {
		delete(found.holds, id)
		delete(found.keys, id)
	}
	return err
}

// visitLacking calls visit with the entries of the stream that the journal lacks.
func (r *repairer) visitLacking(ctx context.Context, visit func(events.Entry) error) error {
	return stream.Pages(ctx, r.redis, r.pool, func(page []events.Entry) error {
		lacking, err := journal.Lacks(ctx, r.lease.Conn, r.pool.Name(), page)
		for _, entry := range lacking {
			err = errors.Join(err, visit(entry))
		}
		return err
	})
}

// run repairs the pool:
//
//  1. Close Redis's log, if it has one, so that nothing changes any more.
//  2. Find the differences, and save them.
//  3. Record the decision in Postgres, with the events that keep Redis, if it is kept.
//  4. Restore Redis from the journal.
func (r *repairer) run(ctx context.Context, options RepairOptions) error {
	if options.Keep == SideRedis {
		if err := r.refuseToKeepRedis(); err != nil {
			return err
		}
	}
	if err := r.awaitOtherSellers(ctx, r.lease.Conn, r.c.server); err != nil {
		return err
	}
	metaKey := r.pool.MetaKey()
	if r.c.head.Exists {
		end, err := r.closeLog(ctx, r.c.head.Epoch, "")
		if err != nil {
			return err
		}
		r.c.head.Seq = end
		metaKey = r.pool.ClosedMetaKey()
	}
	facts, err := r.prepare(ctx, options, metaKey)
	if err != nil {
		if r.c.head.Exists {
			err = errors.Join(err, r.reopenLog(ctx, r.c.head.Epoch))
		}
		return err
	}
	// If this fails, the decision may be recorded all the same. So the log stays closed:
	// the next look opens it again, or restores Redis.
	if err := r.decide(ctx, facts); err != nil {
		return err
	}
	if err := r.restoreDiscarded(ctx); err != nil {
		return fmt.Errorf("the decision is recorded, and Redis is not yet restored; any running process of the service "+
			"completes that, and so does `stockstream redis rebuild`: %w", err)
	}
	r.Done = r.summary()
	return nil
}

// refuseToKeepRedis fails with ErrOnlyJournal if Redis's log cannot be kept.
func (r *repairer) refuseToKeepRedis() error {
	switch {
	case !r.c.head.Exists:
		return fmt.Errorf("%w: Redis has no log", ErrOnlyJournal)
	case r.c.head.Seq < r.c.journal.Journaled:
		return fmt.Errorf("%w: Redis's log ends at seq %d, and the journal at %d",
			ErrOnlyJournal, r.c.head.Seq, r.c.journal.Journaled)
	}
	return nil
}

// prepare takes step 2, and returns the events to record.
func (r *repairer) prepare(
	ctx context.Context, options RepairOptions, metaKey string,
) (facts []events.Envelope, err error) {
	if err := r.look(ctx, metaKey); err != nil {
		return nil, err
	}
	if options.Keep == SideRedis {
		if facts, err = envelopes(r.pool, r.Journaled, r.facts); err != nil {
			return nil, err
		}
	}
	err = options.Save(func(to io.Writer) error { return r.save(ctx, to) })
	if err != nil {
		return nil, fmt.Errorf("save the differences: %w", err)
	}
	r.facts = nil
	return facts, nil
}

// decide takes step 3.
func (r *repairer) decide(ctx context.Context, facts []events.Envelope) error {
	silent, err := r.refuseOtherSellers(ctx, r.lease.Conn, r.c.server)
	if err != nil {
		return err
	}
	raise := journal.Raise{
		Above:  max(r.c.head.Epoch, r.c.knownEpoch),
		Server: r.c.server.ReplicationID,
		Silent: silent,
	}
	return journal.DiscardLog(ctx, r.lease.Conn, r.pool, raise, r.Journaled, facts, r.log)
}

// restoreDiscarded takes step 4.
func (r *repairer) restoreDiscarded(ctx context.Context) error {
	c, _, err := r.compare(ctx, r.lease.Conn)
	if err != nil {
		return err
	}
	if err := r.verify(ctx, c); err != nil {
		return err
	}
	return r.restorer.run(ctx, c)
}

// savedLine is a line of the file that a repair saves.
type savedLine struct {
	// From is "redis" for an event that would record a difference, "stream" for an entry
	// of the stream, and "key" for an idempotency key of a stock adjustment.
	From string `json:"from"`

	Type    events.Type  `json:"type,omitempty"`
	At      *time.Time   `json:"at,omitempty"`
	Payload events.Event `json:"payload,omitempty"`

	StreamID string         `json:"stream_id,omitempty"`
	Fields   map[string]any `json:"fields,omitempty"` // of the entry

	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
}

// save writes everything that the journal lacks as lines of JSON.
func (r *repairer) save(ctx context.Context, to io.Writer) error {
	buffered := bufio.NewWriter(to)
	lines := json.NewEncoder(buffered)
	for _, f := range r.facts {
		at := time.UnixMilli(f.atMs).UTC()
		line := savedLine{
			From:    "redis",
			Type:    f.event.Type(),
			At:      &at,
			Payload: f.event,
		}
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	for _, lost := range r.Facts.Keys {
		if err := lines.Encode(savedLine{From: "key", Key: lost.Key, Value: lost.Value}); err != nil {
			return err
		}
	}
	err := r.visitLacking(ctx, func(entry events.Entry) error {
		return lines.Encode(savedLine{From: "stream", StreamID: entry.StreamID, Fields: entry.Fields})
	})
	return errors.Join(err, buffered.Flush())
}
