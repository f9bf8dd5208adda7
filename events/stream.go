package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"
)

// StreamSubscriber delivers a pool's stream in order and in batches, one message per batch.
//
// All processes read as one consumer, and only the holder of the lease reads. A successor therefore finds what its
// predecessor had not acknowledged as its own pending entries, and takes them first: nothing waits for an idle time,
// and nothing comes back out of order.
type StreamSubscriber struct {
	*Line
	config StreamSubscriberConfig
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

// consumerName is the one consumer of the group; see StreamSubscriber.
const consumerName = "journal"

// streamBlock is how long a read waits for an entry, and so how late a stop is noticed.
const streamBlock = 500 * time.Millisecond

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
	lease, err := AcquireLease(ctx, s.config.Postgres, "journal/"+s.config.Pool.Name())
	if err != nil {
		return err
	}
	defer lease.Release()
	record, err := ReadPoolRecord(ctx, lease.Conn, s.config.Pool.Name())
	if err != nil {
		return err
	}
	epoch := max(record.Epoch, FirstEpoch) // in which the journal's own look at it begins, too
	if err := s.takeOver(ctx); err != nil {
		return err
	}
	s.Running()
	ahead, ctx := errgroup.WithContext(ctx)
	fetched := make(chan []Entry)
	ahead.Go(func() error { return s.fetchAll(ctx, fetched) })
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
				if err := s.handOver(ctx, out, batch); err != nil {
					return err
				}
			case <-trims.C:
				if err := s.trim(ctx, trimmer, lease); err != nil {
					return err
				}
			}
		}
	})
	return ahead.Wait()
}

// trim runs between two batches, when the lease's session is free.
func (s *StreamSubscriber) trim(ctx context.Context, trimmer *streamTrimmer, lease *Lease) error {
	ask, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	journaled, err := ReadCheckpoint(ask, lease.Conn, JournalCheckpoint, s.config.Pool.Name())
	if err != nil {
		return err
	}
	trimmer.run(ctx, journaled)
	return nil
}

// handOver delivers one batch, and acknowledges it once it was taken.
func (s *StreamSubscriber) handOver(ctx context.Context, out chan<- *message.Message, batch *StreamBatch) error {
	entries := batch.Entries
	if err := deliver(ctx, out, entries[0].StreamID, batch); err != nil {
		return fmt.Errorf("batch from %s: %w", entries[0].StreamID, err)
	}
	return s.acknowledge(ctx, entries)
}

// fetchAll reads own pending entries first, oldest first, and then new ones.
func (s *StreamSubscriber) fetchAll(ctx context.Context, fetched chan<- []Entry) error {
	const fresh = ">"
	for from := "0"; ; {
		entries, err := s.fetch(ctx, from)
		switch {
		case err != nil:
			return err
		case len(entries) == 0:
			from = fresh
			continue
		case from != fresh:
			from = entries[len(entries)-1].StreamID
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case fetched <- entries:
		}
	}
}

// takeOver makes sure that the group exists, and that every unacknowledged entry is this consumer's: somebody may
// have read the group by hand, which must not make a hole.
func (s *StreamSubscriber) takeOver(ctx context.Context) error {
	stream := s.config.Pool.StreamKey()
	err := s.config.Redis.XGroupCreateMkStream(ctx, stream, ConsumerGroup, "0").Err()
	if err != nil && !strings.HasPrefix(err.Error(), "BUSYGROUP") {
		return fmt.Errorf("create group %s: %w", ConsumerGroup, err)
	}
	for from := "0-0"; ; {
		_, next, err := s.config.Redis.XAutoClaimJustID(ctx, &redis.XAutoClaimArgs{
			Stream: stream, Group: ConsumerGroup, Consumer: consumerName, Start: from, Count: 1000,
		}).Result()
		if err != nil {
			return fmt.Errorf("claim pending entries: %w", err)
		}
		if next == "0-0" {
			return nil
		}
		from = next
	}
}

func (s *StreamSubscriber) fetch(ctx context.Context, from string) ([]Entry, error) {
	streams, err := s.config.Redis.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: ConsumerGroup, Consumer: consumerName,
		Streams: []string{s.config.Pool.StreamKey(), from},
		Count:   int64(s.config.BatchMax), Block: streamBlock,
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

// acknowledge goes on when the intake has just been stopped: the batch is in the journal, and saying so saves the
// next runner the repeat.
func (s *StreamSubscriber) acknowledge(ctx context.Context, entries []Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	ids := make([]string, len(entries))
	for i, entry := range entries {
		ids[i] = entry.StreamID
	}
	if err := s.config.Redis.XAck(ctx, s.config.Pool.StreamKey(), ConsumerGroup, ids...).Err(); err != nil {
		return fmt.Errorf("acknowledge entries: %w", err)
	}
	return nil
}
