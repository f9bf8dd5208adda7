package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/redisclient"
	"github.com/stockstream/stockstream/migrations"
)

// redisClient returns a client of the configured Redis.
func redisClient(config *Config) (redis.UniversalClient, error) {
	client, err := redisclient.Open(config.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("STOCKSTREAM_REDIS_URL (--redis-url): %w", err)
	}
	return client, nil
}

// pool returns the pool that this program works with.
func (c *Config) pool() events.Pool {
	if redisclient.IsCluster(c.RedisURL) {
		return events.MainPool.OnCluster()
	}
	return events.MainPool
}

// redisLog logs go-redis's messages about its connections at debug level. The parts that
// need Redis report themselves when they cannot reach it.
type redisLog struct{ log *slog.Logger }

// Printf implements go-redis's logging interface.
func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// connect opens one connection to Postgres, for a command that runs to its end.
func connect(ctx context.Context, config *Config) (*pgx.Conn, error) {
	session, err := postgres.ParseURL(config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, session)
	if err != nil {
		const advice = "set STOCKSTREAM_DATABASE_URL or --database-url to its address"
		return nil, fmt.Errorf("connect to Postgres (%s): %w", advice, postgres.ExplainConnect(err))
	}
	return conn, nil
}

// withConnection calls do with a new connection to Postgres and closes the connection
// afterwards.
func withConnection(ctx context.Context, config *Config, do func(*pgx.Conn) error) error {
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return do(conn)
}

// connectToLatestSchema opens a connection to Postgres and checks that the schema is at
// this build's version. Without the check, an operator would see errors about missing
// tables.
func connectToLatestSchema(ctx context.Context, config *Config) (*pgx.Conn, error) {
	conn, err := connect(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := migrations.Check(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// latestSchemaConfig returns the connection settings for parts that open Postgres
// connections themselves, after checking that the schema is at this build's version.
func latestSchemaConfig(ctx context.Context, config *Config) (*pgx.ConnConfig, error) {
	session, err := postgres.ParseURL(config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	conn, err := connectToLatestSchema(ctx, config)
	if err != nil {
		return nil, err
	}
	return session, conn.Close(ctx)
}
