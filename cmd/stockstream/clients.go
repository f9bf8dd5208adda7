package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/migrations"
)

// redisClient returns a client that gives up early enough for a command's deadline to mean something. What the URL
// says (?read_timeout=…) stands.
func redisClient(config *Config) (*redis.Client, error) {
	options, err := redis.ParseURL(config.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	options.ContextTimeoutEnabled = true
	options.DialerRetries = 1
	if options.DialTimeout == 0 {
		options.DialTimeout = 2 * time.Second
	}
	if options.ReadTimeout == 0 {
		options.ReadTimeout = 2 * time.Second
	}
	return redis.NewClient(options), nil
}

// redisLog takes what go-redis says of its connections. Whether Redis can be reached is told by those who need it.
type redisLog struct{ log *slog.Logger }

// Printf implements the logger of go-redis.
func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// connect opens one connection to Postgres for a command that ends by itself.
func connect(ctx context.Context, config *Config) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, config.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres (STOCKSTREAM_DATABASE_URL or --database-url says where it is): %w", err)
	}
	return conn, nil
}

// withConnection does a piece of work with a session of its own.
func withConnection(ctx context.Context, config *Config, do func(*pgx.Conn) error) error {
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return do(conn)
}

// connectToLatestSchema opens a session on a schema that is this build's; what an operator would see otherwise is a table that
// is not there.
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

// postgresConfig is how whatever opens sessions of its own connects to Postgres.
func postgresConfig(config *Config) (*pgx.ConnConfig, error) {
	postgres, err := pgx.ParseConfig(config.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("database URL: %w", err)
	}
	return postgres, nil
}

// latestSchemaConfig is postgresConfig of a Postgres whose schema is this build's.
func latestSchemaConfig(ctx context.Context, config *Config) (*pgx.ConnConfig, error) {
	postgres, err := postgresConfig(config)
	if err != nil {
		return nil, err
	}
	conn, err := connectToLatestSchema(ctx, config)
	if err != nil {
		return nil, err
	}
	return postgres, conn.Close(ctx)
}
