package recovery

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events/journal"
)

// promiseInterval is how often a process repeats in Postgres how long it remembers keys.
const promiseInterval = time.Hour

// memoryPromise is when this process last told Postgres how long it remembers keys.
type memoryPromise struct {
	mu   sync.Mutex
	last time.Time
}

// promiseMemory tells Postgres how long this process remembers keys, unless it did so
// within promiseInterval. A process does so before it takes commands: a process that
// restores Redis later must keep the promise, whatever its own settings are.
func (r *Recovery) promiseMemory(ctx context.Context, conn *pgx.Conn) error {
	r.promise.mu.Lock()
	defer r.promise.mu.Unlock()
	if time.Since(r.promise.last) < promiseInterval {
		return nil
	}
	if err := journal.PromiseMemory(ctx, conn, r.pool.Name(), r.keepMemory); err != nil {
		return err
	}
	r.promise.last = time.Now()
	return nil
}

// memoryToRestore returns how long a restored key is remembered, counted from when it was
// written: the longest time that this process or another one has promised.
func (r *Recovery) memoryToRestore(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	promised, err := journal.PromisedMemory(ctx, conn, r.pool.Name())
	return max(promised, r.keepMemory, commands.KeepMemoryMin), err
}
