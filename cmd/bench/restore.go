package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/events"
)

// benchRestore measures how long it takes to restore an empty Redis from the journal,
// with ended holds and keys.
func benchRestore(ctx context.Context, o options, s *servers) error {
	client, pool, closeBoth, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer closeBoth()
	if err := writeHistory(ctx, pool, o.history, o.history/10); err != nil {
		return err
	}
	var perSecond, writingSeconds []float64
	var done recovery.Rebuilt
	for range min(o.rounds, 3) {
		if err := client.FlushAll(ctx).Err(); err != nil {
			return err
		}
		result, seconds, writing, err := restoreOnce(ctx, client, pool)
		if err != nil {
			return err
		}
		done = result
		perSecond = append(perSecond, float64(o.history)/seconds)
		writingSeconds = append(writingSeconds, writing)
	}
	fmt.Printf("\nRedis restored from %d events: %d live holds, %d ended ones, %d keys\n",
		done.Seq, done.LiveHolds, done.EndedHolds, done.Keys)
	fmt.Printf("  events/s                                        %8.0f\n", median(perSecond))
	fmt.Printf("  seconds of it to remove and write keys          %8.1f\n", median(writingSeconds))
	printGoal("Redis from the journal, in thousands of events/s", median(perSecond)/1000, 100)
	return reset(ctx, client, pool)
}

// restoreOnce restores Redis and returns the seconds that it took, and the seconds that
// writing to Redis took.
func restoreOnce(
	ctx context.Context, client *redis.Client, pool *pgxpool.Pool,
) (done recovery.Rebuilt, seconds, writing float64, err error) {
	r := recovery.New(recovery.Config{
		Pool:       events.MainPool,
		Redis:      client,
		Postgres:   pool.Config().ConnConfig,
		KeepMemory: commands.DefaultConfig().KeepMemory,
		Log:        slog.Default(),
	})
	began := time.Now()
	var folded time.Time
	done, err = r.Rebuild(ctx, recovery.RebuildOptions{
		Wait: time.Minute,
		Report: recovery.EveryStep(time.Hour, func(p recovery.RestoreProgress) {
			if p.Step == recovery.StepRemove {
				folded = time.Now()
			}
		}),
	})
	seconds = time.Since(began).Seconds()
	writing = time.Since(folded).Seconds()
	return done, seconds, writing, err
}
