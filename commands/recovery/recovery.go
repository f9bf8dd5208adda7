// Package recovery keeps a pool's Redis and its journal consistent. It compares the two,
// opens the gate for commands once they fit together, and restores Redis from the journal
// if Redis was emptied or is behind.
//
// Read it in this order: watcher.go (the loop of a running process), compare.go (how
// Redis's log differs from the journal), reconcile.go (which step follows), restore.go,
// state.go and writer.go (writing Redis's keys from the journal), advance.go (only those
// that a Redis which lags lacks), journal_lease.go (the journal first appends the events
// that it has read), rebuild.go (a restore on demand), repair.go (an operator decides
// which log goes on), redis_state.go and facts.go (how Redis's keys differ from the
// journal), sellers.go (which processes sell on which Redis), lag.go (how far the journal
// is behind).
//
// Of ours it imports commands and events. A Recovery is safe for concurrent use. Of
// several processes, one reconciles or rebuilds a pool at a time: it holds the lease
// "open/<pool>".
package recovery

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// Config names the two stores of one pool. The caller closes the client.
type Config struct {
	Pool     events.Pool
	Redis    redis.UniversalClient
	Postgres *pgx.ConnConfig
	Gate     *commands.Gate // of the service that takes the pool's commands; nil in a process without one
	// KeepMemory is how long that service remembers ended holds and idempotency keys.
	KeepMemory time.Duration
	// UnjournaledMax is the number of events that are not journaled at which reserves are
	// refused; 0 for no limit.
	UnjournaledMax int64
	Log            *slog.Logger
}

// Recovery reconciles one pool's Redis with its journal.
type Recovery struct {
	pool       events.Pool
	redis      redis.UniversalClient
	postgres   *pgx.ConnConfig
	gate       *commands.Gate
	keepMemory time.Duration
	lagMax     int64
	log        *slog.Logger

	process       string       // the name under which this process reports that it sells
	others        otherSellers // the processes that sell on another Redis
	promise       memoryPromise
	rightsUnknown sync.Once // logs that the rights cannot be checked
}

// New returns the recovery of one pool. It does nothing until one of its methods is
// called.
func New(config Config) *Recovery {
	if config.Gate == nil {
		config.Gate = commands.NewGate()
	}
	return &Recovery{
		pool:       config.Pool,
		redis:      config.Redis,
		postgres:   config.Postgres,
		gate:       config.Gate,
		keepMemory: config.KeepMemory,
		lagMax:     config.UnjournaledMax,
		log:        config.Log,
		process:    newProcessName(),
	}
}

// leaseName is the lease of the one process that changes the pool's log outside of a
// command.
func (r *Recovery) leaseName() string { return "open/" + r.pool.Name() }

// acquireLease takes that lease, and waits at most so long for the process that has it.
func (r *Recovery) acquireLease(ctx context.Context, wait time.Duration) (*worker.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return worker.AcquireLease(ctx, r.postgres, r.leaseName())
}
