package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/projections"
)

// benchPipeline measures how fast a backlog of events is journaled from the stream, and
// then projected into the read tables. The baseline is watermill-redisstream's own
// subscriber, with one transaction per event.
func benchPipeline(ctx context.Context, o options, s *servers) error {
	client, pool, closeBoth, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	var journal, projected, plain []float64
	for range min(o.rounds, 3) {
		if err := fillStream(ctx, client, pool, o.events); err != nil {
			return err
		}
		perSecond, err := timeJournal(ctx, client, pool, o.events)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		journal = append(journal, perSecond)
		if perSecond, err = timeProjections(ctx, pool, o.events); err != nil {
			return fmt.Errorf("projections: %w", err)
		}
		projected = append(projected, perSecond)
		if perSecond, err = journalWithPlainSubscriber(ctx, client, pool, 3000); err != nil {
			return fmt.Errorf("plain subscriber: %w", err)
		}
		plain = append(plain, perSecond)
	}
	fmt.Printf("\nevents/s out of a backlog of %d\n", o.events)
	fmt.Printf("  stream → journal                                %8.0f\n", median(journal))
	fmt.Printf("  journal → the read tables                       %8.0f\n", median(projected))
	fmt.Printf("  plain subscriber, one transaction per event     %8.0f\n", median(plain))
	printGoal("journal, in thousands of events/s", median(journal)/1000, 60)
	printGoal("all projections together, in thousands of events/s", median(projected)/1000, 50)
	printGoal("journal / plain subscriber", median(journal)/median(plain), 50)
	return reset(ctx, client, pool)
}

// reset empties Redis, the journal and the read tables.
func reset(ctx context.Context, client *redis.Client, pool *pgxpool.Pool) error {
	return errors.Join(emptyPostgres(ctx, pool), client.FlushAll(ctx).Err())
}

// fillStream replaces the stream's entries by count events; see backlogEvents.
func fillStream(ctx context.Context, client *redis.Client, pool *pgxpool.Pool, count int) error {
	if err := reset(ctx, client, pool); err != nil {
		return err
	}
	next := backlogEvents(count)
	pipe := client.Pipeline()
	for seq := 1; seq <= count; seq++ {
		event := next()
		payload, err := json.Marshal(event)
		if err != nil {
			return err
		}
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), Values: []any{
			"event_id", uuid.Must(uuid.NewV7()).String(),
			"type", string(event.Type()),
			"payload", payload,
			"metadata", "{}",
			"seq", seq,
			"at", time.Now().UnixMilli(),
		}})
		if seq%1000 == 0 || seq == count {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
	}
	return client.HSet(ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", count).Err()
}

// backlogEvents returns a function that returns the next event: deliveries for 100 SKUs,
// and then holds. Of ten holds, seven are confirmed, two expire and one stays live.
func backlogEvents(count int) func() events.Event {
	var queue []events.Event
	for i := range 100 {
		queue = append(queue, &events.StockAdjusted{
			SKU:    "sku-" + strconv.Itoa(i),
			Delta:  int64(count),
			Reason: "delivery",
		})
	}
	n := 0
	return func() events.Event {
		if len(queue) == 0 {
			n++
			id := events.NewID()
			sku := "sku-" + strconv.Itoa(n%100)
			queue = append(queue, &events.HoldCreated{
				HoldID:         id,
				SKU:            sku,
				Qty:            1,
				UserID:         "buyer",
				TTLMs:          300_000,
				IdempotencyKey: "k" + id,
			})
			switch n % 10 {
			case 0, 1, 2, 3, 4, 5, 6:
				queue = append(queue, &events.HoldConfirmed{
					HoldID:     id,
					SKU:        sku,
					Qty:        1,
					UserID:     "buyer",
					PaymentRef: "pay-" + id,
				})
			case 7, 8:
				queue = append(queue, &events.HoldCancelled{
					HoldID: id,
					SKU:    sku,
					Qty:    1,
					UserID: "buyer",
					Reason: events.ReasonExpired,
				})
			}
		}
		event := queue[0]
		queue = queue[1:]
		return event
	}
}

// timeJournal returns how many events per second the journal reads from the stream.
func timeJournal(ctx context.Context, client *redis.Client, pool *pgxpool.Pool, count int) (float64, error) {
	readers := []string{journal.CheckpointName}
	return timeUntilCaughtUp(ctx, pool, count, readers, func(router *message.Router) {
		writer := &journal.Writer{Park: deadletters.ParkEntries, Redis: client, Log: slog.Default()}
		writer.AddTo(router, journal.StreamSubscriberConfig{
			Redis:    client,
			Postgres: pool.Config().ConnConfig,
			Pool:     events.MainPool,
			Keep:     10 * time.Minute,
			Log:      slog.Default(),
		})
	})
}

// timeProjections returns how many events per second all projections apply together.
func timeProjections(ctx context.Context, pool *pgxpool.Pool, count int) (float64, error) {
	readers := projections.Names(projections.BuiltIn())
	return timeUntilCaughtUp(ctx, pool, count, readers, func(router *message.Router) {
		projections.AddTo(router, projections.Config{
			Postgres: pool.Config().ConnConfig,
			Pool:     events.MainPool,
			Log:      slog.Default(),
		}, projections.BuiltIn()...)
	})
}

// timeUntilCaughtUp runs the handlers that add adds until the readers' checkpoints have
// reached the backlog's end, and returns the events per second.
func timeUntilCaughtUp(
	ctx context.Context, pool *pgxpool.Pool, count int, readers []string, add func(*message.Router),
) (perSecond float64, err error) {
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	add(router)
	began := time.Now()
	var group sync.WaitGroup
	group.Go(func() { err = router.Run(ctx) })
	for caughtUp := 0; caughtUp < len(readers); {
		time.Sleep(5 * time.Millisecond)
		const query = `SELECT count(*) FROM checkpoints WHERE projection = ANY($1) AND seq >= $2`
		if err := pool.QueryRow(ctx, query, readers, count).Scan(&caughtUp); err != nil {
			return 0, err
		}
	}
	elapsed := time.Since(began)
	closeErr := router.Close()
	group.Wait()
	return float64(count) / elapsed.Seconds(), errors.Join(err, closeErr)
}

// journalWithPlainSubscriber writes events with watermill-redisstream's own subscriber:
// one message per entry, and one transaction per message.
func journalWithPlainSubscriber(
	ctx context.Context, client *redis.Client, pool *pgxpool.Pool, count int,
) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const schema = `
		DROP TABLE IF EXISTS plain_journal;
		CREATE TABLE plain_journal (event_id uuid PRIMARY KEY, payload jsonb NOT NULL)`
	if _, err := pool.Exec(ctx, schema); err != nil {
		return 0, err
	}
	own := redis.NewClient(client.Options()) // the subscriber closes its client
	subscriber, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client:        own,
		Unmarshaller:  events.Codec{},
		ConsumerGroup: "stock",
		OldestId:      "0",
	}, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	defer subscriber.Close() //nolint:errcheck // the measurement is over
	messages, err := subscriber.Subscribe(ctx, events.MainPool.StreamKey())
	if err != nil {
		return 0, err
	}
	began := time.Now()
	for range count {
		msg := <-messages
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO plain_journal VALUES ($1, $2) ON CONFLICT DO NOTHING`,
				msg.UUID, []byte(msg.Payload))
			return err
		})
		if err != nil {
			return 0, err
		}
		msg.Ack()
	}
	return float64(count) / time.Since(began).Seconds(), nil
}
