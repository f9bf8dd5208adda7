package rebuild

import (
	"context"
	"errors"
	"sync"

	"github.com/stockstream/stockstream/projections"
)

// Background runs rebuilds in the background of a serving process. Its methods may be
// called concurrently.
type Background struct {
	config Config

	mu     sync.Mutex
	closed bool
	cancel map[int64]context.CancelFunc // by the id of the run
	done   sync.WaitGroup
}

// NewBackground returns a Background that runs no rebuild yet.
func NewBackground(config Config) *Background {
	return &Background{config: config, cancel: map[int64]context.CancelFunc{}}
}

// Start begins a rebuild and returns its id while it runs; List shows its progress and
// its end. Start fails as Begin does. A rebuild that starts after Close is cancelled at
// once.
func (b *Background) Start(
	ctx context.Context, acceptDifferences bool, list ...projections.Projection,
) (id int64, err error) {
	config := b.config
	config.AcceptDifferences = acceptDifferences
	job, err := Begin(ctx, config, list...)
	if err != nil {
		return 0, err
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
	}
	b.cancel[job.ID()] = cancel
	b.done.Go(func() {
		results, err := job.Run(runCtx)
		log := config.Log.With("rebuild", job.ID())
		switch {
		case err == nil:
			log.Info("rebuild done; the new tables serve", "outcomes", results)
		case errors.Is(err, ErrCancelled):
			log.Info("rebuild cancelled", "cause", err)
		default:
			log.Error("rebuild failed", "error", err)
		}
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.cancel, job.ID())
	})
	return job.ID(), nil
}

// DropOld calls the function DropOld with the config of b.
func (b *Background) DropOld(ctx context.Context, p projections.Projection) error {
	return DropOld(ctx, b.config, p)
}

// RestoreOld calls the function RestoreOld with the config of b.
func (b *Background) RestoreOld(ctx context.Context, p projections.Projection) (Result, error) {
	return RestoreOld(ctx, b.config, p)
}

// Close cancels the running rebuild and waits until it has ended: about a second, or
// until the end of a swap that is under way.
func (b *Background) Close() {
	b.mu.Lock()
	b.closed = true
	for _, cancel := range b.cancel {
		cancel()
	}
	b.mu.Unlock()
	b.done.Wait()
}
