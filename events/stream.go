package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/internal/wait"
)

// StreamSubscriber delivers a pool's stream in order and in batches, one message per batch.
//
// It reads from where the journal stands, and only the holder of the lease reads. The consumer group is told how far the
// journal has come, so that everybody else can see it and nothing is trimmed too early; nobody reads through it, since
// Redis would write down each entry twice more, as handed out and as acknowledged.
type StreamSubscriber struct {
	*Line
	config   StreamSubscriberConfig
	handling atomic.Int64 // how long the last batch took, in nanoseconds
}

// StreamSubscriberConfig says what to read, and with what. The clients stay the caller's to close.
type StreamSubscriberConfig struct {
	Redis    redis.UniversalClient
	Postgres *pgx.ConnConfig
	Pool     Pool
	BatchMax int // entries in a delivery; 2,000 unless set
	// Keep is how long entries stay on the stream that nobody needs any more; see streamTrimmer.
	Keep time.Duration
	Log  *slog.Logger
}

// streamBlock is how long a read waits for an entry, and so how late a stop is noticed.
const streamBlock = 500 * time.Millisecond

// A line that keeps up lets entries gather between two reads, a few times as long as the last batch took: under load it
// does more with each transaction, and leaves the machine to others. An entry that comes alone waits for nothing.
const (
	gatherRatio = 3
	gatherMax   = 50 * time.Millisecond
)

var _ message.Subscriber = (*StreamSubscriber)(nil)

// NewStreamSubscriber returns a subscriber for one pool's stream.
func NewStreamSubscriber(config StreamSubscriberConfig) *StreamSubscriber {
	if config.BatchMax == 0 {
		config.BatchMax = BatchMaxDefault
	}
	return &StreamSubscriber{Line: NewLine("journal", config.Log), config: config}
}

// Subscribe implements message.Subscriber. The topic must be the pool's stream.
func (s *StreamSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != s.config.Pool.StreamKey() {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, s.config.Pool.StreamKey())
	}
	return s.Start(ctx, s.read)
}

// read delivers until something fails. The next batch is fetched while one is being handled.
func (s *StreamSubscriber) read(ctx context.Context, out chan<- *message.Message) error {
	lease, err := acquireLineLease(ctx, s.config.Postgres, "journal/"+s.config.Pool.Name())
	if err != nil {
		return err
	}
	defer lease.Release()
	record, err := ReadPoolRecord(ctx, lease.Conn, s.config.Pool.Name())
	if err != nil {
		return err
	}
	epoch := max(record.Epoch, FirstEpoch) // in which the journal's own look at it begins, too
	at, err := s.position(ctx, lease)
	if err != nil {
		return err
	}
	s.Running()
	ahead, ctx := errgroup.WithContext(ctx)
	fetched := make(chan []Entry)
	from := at.id
	ahead.Go(func() error { return s.fetchAll(ctx, from, fetched) })
	ahead.Go(func() error {
		trimmer := &streamTrimmer{redis: s.config.Redis, pool: s.config.Pool, keep: s.config.Keep, log: s.config.Log}
		trims := time.NewTicker(trimInterval)
		defer trims.Stop()
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case entries := <-fetched:
				batch := &StreamBatch{Pool: s.config.Pool, Entries: entries, Epoch: epoch, Lease: lease}
				end := at.behind(entries)
				if err := s.handOver(ctx, out, batch, end); err != nil {
					return err
				}
				at = end
			case <-trims.C:
				var err error
				if at, err = s.trim(ctx, trimmer, lease, at); err != nil {
					return err
				}
			}
		}
	})
	return ahead.Wait()
}

// trim runs between two batches, when the lease's session is free. It first puts the group right, where somebody has moved
// it or reads through it, and returns the place that is read from.
func (s *StreamSubscriber) trim(ctx context.Context, trimmer *streamTrimmer, lease *Lease, at cursor) (cursor, error) {
	at, err := s.lookAgain(ctx, at)
	if err != nil {
		return at, err
	}
	if err := s.acknowledge(ctx, at); err != nil {
		return at, err
	}
	if _, err := freeGroup(ctx, s.config.Redis, s.config.Pool, s.config.Log); err != nil {
		return at, err
	}
	ask, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	journaled, err := ReadCheckpoint(ask, lease.Conn, JournalCheckpoint, s.config.Pool.Name())
	if err != nil {
		return at, err
	}
	trimmer.run(ctx, journaled)
	return at, nil
}

// handOver delivers one batch, and tells the group once it was taken.
func (s *StreamSubscriber) handOver(ctx context.Context, out chan<- *message.Message, batch *StreamBatch, end cursor) error {
	began := time.Now()
	if err := deliver(ctx, out, batch.Entries[0].StreamID, batch); err != nil {
		return fmt.Errorf("batch from %s: %w", batch.Entries[0].StreamID, err)
	}
	err := s.acknowledge(ctx, end)
	s.handling.Store(int64(time.Since(began)))
	return err
}

// fetchAll reads what comes after an id. A full batch means that there is more, which is read while it is handled.
func (s *StreamSubscriber) fetchAll(ctx context.Context, from string, fetched chan<- []Entry) error {
	for {
		entries, err := s.fetch(ctx, from)
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
		from = entries[len(entries)-1].StreamID
		if len(entries) < s.config.BatchMax {
			if err := wait.For(ctx, min(gatherMax, gatherRatio*time.Duration(s.handling.Load()))); err != nil {
				return err
			}
		}
	}
}

func (s *StreamSubscriber) fetch(ctx context.Context, after string) ([]Entry, error) {
	streams, err := s.config.Redis.XRead(ctx, &redis.XReadArgs{
		Streams: []string{s.config.Pool.StreamKey(), after}, Count: int64(s.config.BatchMax), Block: streamBlock,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("read stream: %w", err)
	}
	var entries []Entry
	for _, stream := range streams {
		for _, m := range stream.Messages {
			entries = append(entries, parseEntry(s.config.Pool.Name(), m.ID, m.Values))
		}
	}
	return entries, nil
}
