package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// Side is the log that a repair keeps.
type Side string

// The journal is kept by restoring Redis from it. Redis is kept by recording in the
// journal what Redis knows, before Redis is restored from it.
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
	// Save receives what the repair would otherwise throw away, as lines of JSON, and
	// must have stored them when it returns: the events that record what Redis knows, and
	// the entries of the stream that the journal lacks. It is not called for SideNone.
	Save func(write func(io.Writer) error) error
	// Report receives the progress, from several goroutines. It may be nil.
	Report func(RestoreProgress)
}

// Repair describes a pool whose Redis and journal do not fit together, and what became of
// it.
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
	// ErrOnlyJournal is returned for SideRedis if Redis has no log, or one that is behind
	// the journal.
	ErrOnlyJournal = errors.New("only the journal can be kept")
)

// Repair ends a state in which Redis and the journal do not fit together and no process
// can decide which of them goes on. With SideNone it only says what each way loses. It
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
	waiting, cancel := context.WithTimeout(ctx, options.Wait)
	lease, err := worker.AcquireLease(waiting, r.postgres, r.leaseName())
	cancel()
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
	case err != nil && !needsOperator(err):
		return Repair{}, err
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

	facts   []events.Envelope // what Redis knows and the journal lacks
	lacking []events.Entry    // of the stream
}

// look compares the keys of Redis, whose log head is at metaKey, with the journal.
func (r *repairer) look(ctx context.Context, metaKey string) error {
	r.Journaled = r.c.journal.Journaled
	r.RedisEnd = r.c.head.Seq
	if err := r.foldTo(ctx, r.Journaled); err != nil {
		return err
	}
	found, err := r.readRedisState(ctx, metaKey)
	if err != nil {
		return err
	}
	if err := r.forgetJournaled(ctx, found); err != nil {
		return err
	}
	now, err := stream.ReadTime(ctx, r.redis, r.pool)
	if err != nil {
		return err
	}
	var facts []fact
	r.Facts, facts = r.state.differ(found, now.UnixMilli())
	r.Recorded = int64(len(facts))
	if r.facts, err = envelopes(r.pool, r.Journaled, facts); err != nil {
		return err
	}
	err = stream.Pages(ctx, r.redis, r.pool, func(page []events.Entry) error {
		lacking, err := journal.Lacks(ctx, r.lease.Conn, r.pool.Name(), page)
		r.lacking = append(r.lacking, lacking...)
		return err
	})
	r.Streamed = int64(len(r.lacking))
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
	}
	return err
}

// run repairs the pool:
//
//  1. Close Redis's log, if it has one, so that nothing changes any more.
//  2. Find the differences, and save what would be lost.
//  3. Record the decision in Postgres, with the events that keep Redis, if it is kept.
//  4. Restore Redis from the journal.
func (r *repairer) run(ctx context.Context, options RepairOptions) error {
	if options.Keep == SideRedis && r.c.head.Seq <= r.c.journal.Journaled {
		return fmt.Errorf("%w: Redis's log ends at seq %d, and the journal at %d",
			ErrOnlyJournal, r.c.head.Seq, r.c.journal.Journaled)
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
	if err := r.decide(ctx, options, metaKey); err != nil {
		if r.c.head.Exists {
			err = errors.Join(err, r.reopenLog(ctx, r.c.head.Epoch))
		}
		return err
	}
	if err := r.restoreDiscarded(ctx); err != nil {
		return fmt.Errorf("the decision is recorded, and Redis is not yet restored; any running process of the service "+
			"completes that, and so does `stockstream redis rebuild`: %w", err)
	}
	r.Done = r.summary()
	return nil
}

// decide takes steps 2 and 3. It changes no key of Redis.
func (r *repairer) decide(ctx context.Context, options RepairOptions, metaKey string) error {
	if err := r.look(ctx, metaKey); err != nil {
		return err
	}
	if err := options.Save(r.save); err != nil {
		return fmt.Errorf("save what is lost: %w", err)
	}
	var facts []events.Envelope
	if options.Keep == SideRedis {
		facts = r.facts
	}
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
	// From is "redis" for an event that records what Redis's keys say, or "stream" for an
	// entry of the stream.
	From     string         `json:"from"`
	StreamID string         `json:"stream_id,omitempty"`
	Fields   map[string]any `json:"fields,omitempty"` // of the entry

	Type    events.Type     `json:"type,omitempty"`
	At      *time.Time      `json:"at,omitempty"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// save writes what Redis knows and the journal lacks as lines of JSON.
func (r *repairer) save(to io.Writer) error {
	lines := json.NewEncoder(to)
	for i := range r.facts {
		e := &r.facts[i]
		line := savedLine{
			From:    "redis",
			Type:    e.Type,
			At:      &e.At,
			Payload: e.Payload,
		}
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	for _, entry := range r.lacking {
		line := savedLine{From: "stream", StreamID: entry.StreamID, Fields: entry.Fields}
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
