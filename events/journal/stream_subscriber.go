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
	"golang.org/x/sync/errgroup"

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

// trimInterval is the time between two trims of the stream. Tests set it lower.
var trimInterval = 5 * time.Second

var _ message.Subscriber = (*StreamSubscriber)(nil)

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
	lease, err := worker.AcquireWorkerLease(ctx, s.config.Postgres, "journal/"+s.config.Pool.Name())
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
	epoch := max(recorded.Epoch, FirstEpoch)
	offset, err := s.start(ctx, lease)
	if err != nil {
		return err
	}
	s.Running()
	group, ctx := errgroup.WithContext(ctx)
	fetched := make(chan []events.Entry)
	from := offset.ID
	group.Go(func() error { return s.fetchAll(ctx, from, fetched) })
	group.Go(func() error { return s.deliverAll(ctx, out, lease, epoch, offset, fetched) })
	return group.Wait()
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

// fetchAll sends batch after batch, beginning after a stream id. A full batch means that
// there are more entries, which are fetched while it is handled.
func (s *StreamSubscriber) fetchAll(ctx context.Context, after string, fetched chan<- []events.Entry) error {
	for {
		entries, err := s.reader.Fetch(ctx, after)
		switch {
		case err != nil:
			return err
		case len(entries) == 0:
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case fetched <- entries:
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

// deliverAll delivers the fetched batches one at a time, and trims the stream between
// them.
func (s *StreamSubscriber) deliverAll(
	ctx context.Context,
	out chan<- *message.Message,
	lease *worker.Lease,
	epoch int64,
	offset stream.Offset,
	fetched <-chan []events.Entry,
) error {
	trimmer := &stream.Trimmer{
		Redis: s.config.Redis,
		Pool:  s.config.Pool,
		Keep:  s.config.Keep,
		Log:   s.config.Log,
	}
	trims := time.NewTicker(trimInterval)
	defer trims.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entries := <-fetched:
			batch := &StreamBatch{
				Pool:    s.config.Pool,
				Entries: entries,
				Epoch:   epoch,
				Lease:   lease,
			}
			offset = offset.After(entries)
			if err := s.deliver(ctx, out, batch, offset); err != nil {
				return err
			}
		case <-trims.C:
			var err error
			if offset, err = s.trim(ctx, trimmer, lease, offset); err != nil {
				return err
			}
		}
	}
}

// deliver delivers one batch and moves the group to its end once the batch is in the
// journal.
func (s *StreamSubscriber) deliver(
	ctx context.Context, out chan<- *message.Message, batch *StreamBatch, end stream.Offset,
) error {
	began := time.Now()
	if err := worker.Deliver(ctx, out, batch.Entries[0].StreamID, batch); err != nil {
		return fmt.Errorf("batch from %s: %w", batch.Entries[0].StreamID, err)
	}
	err := s.reader.Acknowledge(ctx, end)
	s.handling.Store(int64(time.Since(began)))
	return err
}

// trim runs between two batches, when the lease's session is free. It first repairs the
// group, in case someone moved it or reads through it, and returns the offset with
// Redis's present count.
func (s *StreamSubscriber) trim(
	ctx context.Context, trimmer *stream.Trimmer, lease *worker.Lease, offset stream.Offset,
) (stream.Offset, error) {
	offset, err := s.reader.Recheck(ctx, offset)
	if err != nil {
		return offset, err
	}
	if err := s.reader.Acknowledge(ctx, offset); err != nil {
		return offset, err
	}
	if _, err := s.reader.RemoveConsumers(ctx); err != nil {
		return offset, err
	}
	query, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	journaled, err := worker.ReadCheckpoint(query, lease.Conn, CheckpointName, s.config.Pool.Name())
	if err != nil {
		return offset, err
	}
	trimmer.Run(ctx, journaled)
	return offset, nil
}
