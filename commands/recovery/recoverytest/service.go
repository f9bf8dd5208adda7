// Package recoverytest has fixtures for tests that need an open pool: a service that
// takes commands on the test's own Redis and Postgres.
package recoverytest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// NewService returns a service of the main pool whose gate is closed. The service is
// closed when the test ends. The caller closes the client.
func NewService(t testing.TB, client *redis.Client, config commands.Config) *commands.Service {
	t.Helper()
	service, err := commands.NewService(events.MainPool, client, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Errorf("close the service: %v", err)
		}
	})
	return service
}

// OpenService returns a service of the main pool that takes commands. A watcher opens its
// gate, as in a running process. The watcher and the service end when the test ends.
func OpenService(
	t testing.TB,
	client *redis.Client,
	postgres *pgx.ConnConfig,
	config commands.Config,
) *commands.Service {
	t.Helper()
	service := NewService(t, client, config)
	watcher := recovery.New(recovery.Config{
		Pool:       events.MainPool,
		Redis:      client,
		Postgres:   postgres,
		Gate:       service.Gate(),
		KeepMemory: config.KeepMemory,
		Log:        slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watcher.Watch(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		err := service.Ready(t.Context())
		return err == nil, "the service is not ready: " + errorText(err)
	})
	return service
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
