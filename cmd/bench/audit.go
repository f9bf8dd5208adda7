package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/projections"
)

// newEventsPerAudit is the number of events between a full audit and the audit that
// continues from it.
const newEventsPerAudit = 10_000

// benchAudit measures a full audit of a long journal, and an audit that continues from it
// after 10,000 more events.
func benchAudit(ctx context.Context, o options, s *servers) error {
	client, pool, closeBoth, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	err = errors.Join(client.FlushAll(ctx).Err(), writeHistory(ctx, pool, o.history, o.history/10))
	if err != nil {
		return err
	}
	if _, err := timeProjections(ctx, pool, o.history); err != nil {
		return err
	}
	if err := fillRedis(ctx, client, pool, o.history); err != nil {
		return err
	}
	config := audit.Config{
		Postgres: pool.Config().ConnConfig,
		Redis:    client,
		Pool:     events.MainPool,
	}
	var full, continued []float64
	for range min(o.rounds, 3) {
		report, took, err := timeAudit(ctx, config, true)
		if err != nil {
			return err
		}
		full = append(full, float64(report.Compared.Events)/took.Seconds())
		if err := sellAndProject(ctx, client, pool, newEventsPerAudit); err != nil {
			return fmt.Errorf("sell: %w", err)
		}
		if _, took, err = timeAudit(ctx, config, false); err != nil {
			return err
		}
		continued = append(continued, took.Seconds())
	}
	fmt.Printf("\naudit of %d events with %d live holds, compared with Redis and the read tables\n",
		o.history, o.history/10)
	fmt.Printf("  full, events/s                                  %8.0f\n", median(full))
	fmt.Printf("  after %d more events, seconds                %8.2f\n", newEventsPerAudit, median(continued))
	printGoal("full audit, in thousands of events/s", median(full)/1000, 200)
	printGoal("audits of 10,000 new events, per second", 1/median(continued), 0.5)
	return reset(ctx, client, pool)
}

func timeAudit(ctx context.Context, config audit.Config, full bool) (*audit.Report, time.Duration, error) {
	began := time.Now()
	report, err := audit.Run(ctx, config, full)
	took := time.Since(began)
	if err == nil && !report.OK {
		err = fmt.Errorf("%s: %+v", report.Summary(), report)
	}
	return report, took, err
}

// fillRedis writes the state in Redis that belongs to the read tables, as it would be a
// day later: without ended holds and idempotency keys, which have expired by then.
func fillRedis(ctx context.Context, client *redis.Client, pool *pgxpool.Pool, end int) error {
	keys := events.MainPool
	pipe := client.Pipeline()
	pipe.HSet(ctx, keys.MetaKey(), "epoch", 1, "seq", end)
	rows, err := pool.Query(ctx, `SELECT sku, available FROM stock_levels`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var sku string
		var available int64
		if err := rows.Scan(&sku, &available); err != nil {
			return err
		}
		pipe.Set(ctx, keys.StockKey(sku), available, 0)
		pipe.HSet(ctx, keys.MetaKey(), "stock:"+sku, available)
	}
	const liveHolds = `
		SELECT hold_id, sku, qty, user_id, (extract(epoch FROM expires_at) * 1000)::bigint
		FROM holds WHERE status = 'ACTIVE'`
	rows, err = pool.Query(ctx, liveHolds)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, sku, user string
		var qty, expiresAt int64
		if err := rows.Scan(&id, &sku, &qty, &user, &expiresAt); err != nil {
			return err
		}
		pipe.HSet(ctx, keys.HoldKey(id),
			"sku", sku,
			"qty", qty,
			"user_id", user,
			"state", "ACTIVE",
			"expires_at", expiresAt,
		)
		pipe.ZAdd(ctx, keys.DueKey(), redis.Z{Score: float64(expiresAt), Member: id})
		if pipe.Len() > 5000 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
	}
	_, err = pipe.Exec(ctx)
	return errors.Join(err, rows.Err())
}

// sellAndProject adds count events with commands (half of them holds, half confirmations)
// and waits until the journal and all projections have reached the end of Redis's log.
func sellAndProject(ctx context.Context, client *redis.Client, pool *pgxpool.Pool, count int) (err error) {
	service, err := commands.NewService(events.MainPool, client, commands.DefaultConfig())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	session := pool.Config().ConnConfig
	watching := recovery.New(recovery.Config{
		Pool:       events.MainPool,
		Redis:      client,
		Postgres:   session,
		Gate:       service.Gate(),
		KeepMemory: commands.DefaultConfig().KeepMemory,
		Log:        slog.Default(),
	})
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go watching.Watch(ctx)
	for service.Ready(ctx) != nil {
		if err := wait.For(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	writer := &journal.Writer{Park: deadletters.ParkEntries, Redis: client, Log: slog.Default()}
	writer.AddTo(router, journal.StreamSubscriberConfig{
		Redis:    client,
		Postgres: session,
		Pool:     events.MainPool,
		Log:      slog.Default(),
	})
	projections.AddTo(router, projections.Config{
		Postgres: session,
		Pool:     events.MainPool,
		Log:      slog.Default(),
	}, projections.BuiltIn()...)
	var running sync.WaitGroup
	running.Go(func() { err = router.Run(ctx) })
	defer running.Wait()
	sellErr := reserveAndConfirm(ctx, service, count/2)
	for caughtUp := 0; sellErr == nil && caughtUp < 1+len(projections.BuiltIn()); {
		log, err := stream.ReadHead(ctx, client, events.MainPool)
		if err != nil {
			return err
		}
		const query = `SELECT count(*) FROM checkpoints WHERE seq = $1`
		if err := pool.QueryRow(ctx, query, log.Seq).Scan(&caughtUp); err != nil {
			return err
		}
	}
	return errors.Join(sellErr, router.Close())
}

// reserveAndConfirm makes count holds and confirms each, with 64 commands at once.
func reserveAndConfirm(ctx context.Context, service *commands.Service, count int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	for range count {
		n := lastKey.Add(1)
		group.Go(func() error {
			hold, err := service.Reserve(ctx, commands.Reserve{
				SKU:            "sku-" + strconv.Itoa(int(n)%historySKUs),
				Qty:            1,
				UserID:         "buyer",
				IdempotencyKey: "audit-" + strconv.Itoa(int(n)),
			})
			if err == nil {
				_, err = service.Confirm(ctx, commands.Confirm{HoldID: hold.HoldID, PaymentRef: "pay"})
			}
			return err
		})
	}
	return group.Wait()
}
