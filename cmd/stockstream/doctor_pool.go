package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/migrations"
)

// sellerAgeMax is the age up to which doctor counts a report of a seller. A running
// seller reports every second.
const sellerAgeMax = 10 * time.Second

// examinePool checks that Redis and the journal fit together, and that the running
// processes sell on the Redis of this configuration. It returns nothing if Redis,
// Postgres or the schema cannot be read: other findings say so.
func examinePool(ctx context.Context, config *Config) []finding {
	client, err := redisClient(config)
	if err != nil {
		return nil
	}
	defer client.Close()
	server, err := stream.ReadServer(ctx, client, config.pool())
	if err != nil {
		return nil
	}
	conn, err := connect(ctx, config)
	if err != nil {
		return nil
	}
	defer conn.Close(ctx)
	if migrations.Check(ctx, conn) != nil {
		return nil
	}
	r := recovery.New(recovery.Config{
		Pool:     config.pool(),
		Redis:    client,
		Postgres: conn.Config(),
		Log:      slog.New(slog.DiscardHandler),
	})
	return []finding{examineLog(ctx, r, conn), examineSellers(ctx, conn, config.pool(), server)}
}

// examineLog checks that Redis's log and the journal fit together, or that a running
// process can make them fit.
func examineLog(ctx context.Context, r *recovery.Recovery, conn *pgx.Conn) finding {
	const name = "redis and journal"
	found, err := r.Check(ctx, conn)
	switch {
	case errors.Is(err, recovery.ErrRightsMissing): // the finding "redis rights" says so
		return unknownFinding(name, err)
	case err != nil:
		return newFinding(name, err.Error(), false, "docs/recovery.md has every state and its way out")
	}
	return newFinding(name, found, true, "")
}

// examineSellers checks that the running processes sell on this Redis.
func examineSellers(ctx context.Context, conn *pgx.Conn, pool events.Pool, server stream.Server) finding {
	elsewhere, here, err := countSellers(ctx, conn, pool, server.ReplicationID)
	if err != nil {
		return unknownFinding("sellers", err)
	}
	found := fmt.Sprintf("sellers on this Redis: %d", here)
	if len(elsewhere) > 0 {
		found += "; sellers on another Redis: " + strings.Join(elsewhere, ", ")
	}
	return newFinding("sellers", found, len(elsewhere) == 0,
		"compare STOCKSTREAM_REDIS_URL here and at these processes")
}

// countSellers returns the processes that sell on another server than the given one, and
// how many sell on this one.
func countSellers(
	ctx context.Context, conn *pgx.Conn, pool events.Pool, server string,
) (elsewhere []string, here int, err error) {
	var now time.Time
	if err := conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return nil, 0, err
	}
	sellers, err := journal.ReadSellers(ctx, conn, pool.Name())
	if err != nil {
		return nil, 0, err
	}
	for _, seller := range sellers {
		switch {
		case now.Sub(seller.ReportedAt) > sellerAgeMax:
		case seller.Server == server:
			here++
		default:
			elsewhere = append(elsewhere, seller.Process)
		}
	}
	return elsewhere, here, nil
}
