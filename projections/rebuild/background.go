package rebuild

import (
	"context"
	"errors"
	"sync"

	"github.com/stockstream/stockstream/projections"
)

// Background runs rebuilds within a process that has other things to do. It may be used from anywhere.
type Background struct {
	config Config

	mu     sync.Mutex
	closed bool
	cancel map[int64]context.CancelFunc // by the run's id
	done   sync.WaitGroup
}

// NewBackground returns one that has nothing to do yet.
func NewBackground(config Config) *Background {
	return &Background{config: config, cancel: map[int64]context.CancelFunc{}}
}

// Start begins a rebuild, and returns while it runs. What becomes of it, List tells. It fails as Begin does.
func (b *Background) Start(ctx context.Context, acceptDifferences bool, list ...projections.Projection) (id int64, err error) {
	config := b.config
	config.AcceptDifferences = acceptDifferences
	job, err := Begin(ctx, config, list...)
	if err != nil {
		return 0, err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		cancel()
	}
	b.cancel[job.ID()] = cancel
	b.done.Go(func() {
		outcomes, err := job.Run(running)
		log := config.Log.With("rebuild", job.ID())
		switch {
		case err == nil:
			log.Info("the rebuild is done; its tables serve", "outcomes", outcomes)
		case errors.Is(err, ErrCancelled):
			log.Info("the rebuild was broken off, as somebody asked", "cause", err)
		default:
			log.Error("the rebuild ended without success", "error", err)
		}
		cancel()
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.cancel, job.ID())
	})
	return job.ID(), nil
}

// DropOld is the function DropOld.
func (b *Background) DropOld(ctx context.Context, p projections.Projection) error {
	return DropOld(ctx, b.config, p)
}

// RestoreOld is the function RestoreOld.
func (b *Background) RestoreOld(ctx context.Context, p projections.Projection) (Result, error) {
	return RestoreOld(ctx, b.config, p)
}

// Close cancels what runs, and waits for its end: a second or so, or the end of an exchange.
func (b *Background) Close() {
	b.mu.Lock()
	b.closed = true
	for _, cancel := range b.cancel {
		cancel()
	}
	b.mu.Unlock()
	b.done.Wait()
}
