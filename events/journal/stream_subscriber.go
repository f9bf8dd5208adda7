package journal

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

// StreamSubscriber delivers a pool's stream to the Writer, in order and in batches, one
// Watermill message per batch. It begins after the last entry that the journal has. Of
// several processes only the holder of the lease reads.
type StreamSubscriber struct {
	*worker.Worker
	config   StreamSubscriberConfig
	reader   *stream.Reader
	handling atomic.Int64 // duration of the last batch, in nanoseconds
}

// StreamSubscriberConfig says which stream to read, and with which clients. The caller
// closes the Redis client.
type StreamSubscriberConfig struct {
	Redis    redis.UniversalClient
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	BatchMax int           // entries in one batch; 0 for 2,000
	Keep     time.Duration // how long an entry that is no longer needed stays on the stream; see Trimmer
	Log      *slog.Logger
}

// StreamBatch is one delivery of the stream: entries in stream order, foreign ones
// included.
type StreamBatch struct {
	Pool    events.Pool
	Entries []events.Entry
	Epoch   int64 // the epoch of the log when reading began
	Lease   *worker.Lease
}

// A subscriber that keeps up lets entries gather between two reads, for gatherRatio times
// the duration of the last batch. Under load, each transaction then does more and leaves
// the machine to others. A single entry on an idle stream waits for nothing.
const (
	gatherRatio = 3
	gatherMax   = 50 * time.Millisecond
)

// requestInterval is how often the worker looks whether a restore asks for its lease.
const requestInterval = 500 * time.Millisecond

// trimInterval is the time between two trims of the stream. Tests set it lower.
var trimInterval = 5 * time.Second

var _ message.Subscriber = (*StreamSubscriber)(nil)

// LeaseName is the name of the lease under which a pool's stream is journaled.
func LeaseName(pool events.Pool) string { return "journal/" + pool.Name() }

// NewStreamSubscriber returns a subscriber for one pool's stream.
func NewStreamSubscriber(config StreamSubscriberConfig) *StreamSubscriber {
	if config.BatchMax == 0 {
		config.BatchMax = worker.BatchMaxDefault
	}
	return &StreamSubscriber{
		Worker: worker.New("journal", config.Log),
		config: config,
		reader: &stream.Reader{
			Redis:    config.Redis,
			Pool:     config.Pool,
			BatchMax: config.BatchMax,
			Log:      config.Log,
		},
	}
}

// Subscribe implements message.Subscriber. The topic must be the pool's stream.
func (s *StreamSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != s.config.Pool.StreamKey() {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, s.config.Pool.StreamKey())
	}
	return s.Start(ctx, s.run)
}

// run delivers batches until something fails. The next batch is fetched while one is
// being handled.
func (s *StreamSubscriber) run(ctx context.Context, out chan<- *message.Message) error {
	lease, err := worker.AcquireWorkerLease(ctx, s.config.Postgres, LeaseName(s.config.Pool))
	if err != nil {
		return err
	}
	defer lease.Release()
	// The epoch is read before the stream is looked at: a log that is replaced in between
	// has a higher one.
	recorded, err := ReadPoolRecord(ctx, lease.Conn, s.config.Pool.Name())
	if err != nil {
		return err
	}
	if recorded.DiscardedEpoch != 0 {
		return errDiscarded
	}
	offset, err := s.start(ctx, lease)
	if err != nil {
		return err
	}
	s.Running()
	fetching, stopFetching := context.WithCancel(ctx)
	defer stopFetching()
	run := &streamRun{
		StreamSubscriber: s,
		out:              out,
		lease:            lease,
		epoch:            max(recorded.Epoch, FirstEpoch),
		stopped:          recorded.Fault != "",
		offset:           offset,
		fetched:          make(chan []events.Entry),
		stopFetching:     stopFetching,
	}
	var fetchErr error
	go func() {
		defer close(run.fetched)
		fetchErr = s.fetchAll(fetching, offset.ID, run.fetched)
	}()
	err = run.deliverAll(ctx)
	stopFetching()
	for range run.fetched { // waits for the end of fetchAll
	}
	if err == nil {
		err = fetchErr
	}
	return err
}

// start returns the offset to read from.
func (s *StreamSubscriber) start(ctx context.Context, lease *worker.Lease) (stream.Offset, error) {
	ctx, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	journaled, err := worker.ReadCheckpoint(ctx, lease.Conn, CheckpointName, s.config.Pool.Name())
	if err != nil {
		return stream.Offset{}, err
	}
	return s.reader.Start(ctx, journaled)
}

// fetchAll sends batch after batch, beginning after a stream id, until the stream cannot
// be read or ctx ends. The first one may be empty; it shows that the stream was read. A
// full batch means that there are more entries, which are fetched while it is handled.
// The caller must receive until the channel is closed.
func (s *StreamSubscriber) fetchAll(ctx context.Context, after string, fetched chan<- []events.Entry) error {
	for first := true; ; first = false {
		entries, err := s.reader.Fetch(ctx, after)
		if err != nil {
			return err
		}
		if len(entries) > 0 || first {
			fetched <- entries
		}
		if len(entries) == 0 {
			continue
		}
		after = entries[len(entries)-1].StreamID
		if len(entries) < s.config.BatchMax {
			gather := gatherRatio * time.Duration(s.handling.Load())
			if err := wait.For(ctx, min(gatherMax, gather)); err != nil {
				return err
			}
		}
	}
}

// streamRun is one run of a StreamSubscriber, under one lease.
type streamRun struct {
	*StreamSubscriber
	out     chan<- *message.Message
	lease   *worker.Lease
	epoch   int64         // of the log when the run began
	stopped bool          // Postgres has a record that the journal stopped at a hole or fork
	offset  stream.Offset // of the last entry that is journaled

	fetched      chan []events.Entry // batches that were read, in order
	stopFetching context.CancelFunc
}

// deliverAll delivers the fetched batches one at a time, and trims the stream between
// them. It returns nil once no more batches come.
//
// A batch that was read is journaled before anything is written to Redis, and even if
// Redis fails: a Redis that died may have lost these events, although it acknowledged
// them. For the same reason it is journaled before the lease is given up to a restore.
func (r *streamRun) deliverAll(ctx context.Context) error {
	trimmer := &stream.Trimmer{
		Redis: r.config.Redis,
		Pool:  r.config.Pool,
		Keep:  r.config.Keep,
		Log:   r.config.Log,
	}
	trims := time.NewTicker(trimInterval)
	defer trims.Stop()
	requests := time.NewTicker(requestInterval)
	defer requests.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entries, more := <-r.fetched:
			if !more {
				return nil
			}
			began := time.Now()
			if err := r.deliver(ctx, entries); err != nil {
				return err
			}
			if len(entries) == 0 {
				continue
			}
			if err := r.reader.Acknowledge(ctx, r.offset); err != nil {
				return r.deliverRest(ctx, err)
			}
			r.handling.Store(int64(time.Since(began)))
		case <-trims.C:
			if err := r.trim(ctx, trimmer); err != nil {
				return r.deliverRest(ctx, err)
			}
		case <-requests.C:
			requested, err := r.lease.Requested(ctx)
			if err != nil {
				return err
			}
			if requested {
				return r.deliverRest(ctx, worker.ErrHandedOver)
			}
		}
	}
}

// deliverRest stops the fetching, and delivers what was fetched. It returns the reason
// for the end of the run, or the error of a batch that could not be delivered.
func (r *streamRun) deliverRest(ctx context.Context, reason error) error {
	r.stopFetching()
	for entries := range r.fetched {
		if err := r.deliver(ctx, entries); err != nil {
			return err
		}
	}
	return reason
}

// deliver delivers one batch, and returns nil once it is in the journal.
func (r *streamRun) deliver(ctx context.Context, entries []events.Entry) error {
	if len(entries) > 0 {
		first := entries[0].StreamID
		batch := &StreamBatch{
			Pool:    r.config.Pool,
			Entries: entries,
			Epoch:   r.epoch,
			Lease:   r.lease,
		}
		if err := worker.Deliver(ctx, r.out, first, batch); err != nil {
			return fmt.Errorf("batch from %s: %w", first, err)
		}
		r.offset = r.offset.After(entries)
	}
	if !r.stopped {
		return nil
	}
	query, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	err := ClearFault(query, r.lease.Conn, r.config.Pool.Name())
	r.stopped = err != nil
	return err
}

// trim runs between two batches, when the lease's session is free. It first repairs the
// group, in case someone moved it or reads through it, and corrects the offset's count.
func (r *streamRun) trim(ctx context.Context, trimmer *stream.Trimmer) (err error) {
	if r.offset, err = r.reader.Recheck(ctx, r.offset); err != nil {
		return err
	}
	if err := r.reader.Acknowledge(ctx, r.offset); err != nil {
		return err
	}
	if _, err := r.reader.RemoveConsumers(ctx); err != nil {
		return err
	}
	query, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	journaled, err := worker.ReadCheckpoint(query, r.lease.Conn, CheckpointName, r.config.Pool.Name())
	if err != nil {
		return err
	}
	trimmer.Run(ctx, journaled)
	return nil
}
