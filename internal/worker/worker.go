package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/internal/logonce"
	"github.com/stockstream/stockstream/internal/wait"
)

// Worker keeps one kind of ordered work going: the journal, a projection or a saga. The
// subscribers of the stream, of the journal and of due holds embed it. It repeats runs
// until it is closed. A run, which the subscriber supplies, has these steps (a saga needs
// neither lease nor checkpoint):
//
//  1. Wait for the lease. The state is waiting: another process may have it, or Postgres
//     is away.
//  2. Read the checkpoint and call Running. The state is running.
//  3. Deliver batch after batch to the handler, which moves the checkpoint, until
//     something fails.
//
// After a failure the state is waiting again. The worker pauses, longer with every
// failure in a row, and the next run starts at the checkpoint, so no event is skipped.
// After Close the state is stopped. All methods may be called from any goroutine.
type Worker struct {
	name string
	log  *slog.Logger

	mu     sync.Mutex
	status Status
	closed bool
	cancel []context.CancelFunc
	done   sync.WaitGroup
}

// Status is the state of a worker in this process.
type Status struct {
	Name  string
	State State
	// Error is the failure that ended the last run. While a run is running, it is the
	// trouble that the run reported, or "".
	Error string
	Since time.Time
}

// State is one of the states below.
type State string

// The states of a worker.
const (
	Waiting State = "waiting" // for the lease, for Postgres, or for the pause after a failure to pass
	Running State = "running"
	Stopped State = "stopped"
)

// The pause between two runs doubles with every failure, from pauseMin to pauseMax.
// Jitter is added. A worker that waits for Redis or Postgres should go on soon after the
// store is back, so the longest pause is short.
const (
	pauseMin = 50 * time.Millisecond
	pauseMax = time.Second
)

// New returns a worker that has not been started.
func New(name string, log *slog.Logger) *Worker {
	return &Worker{
		name: name,
		log:  log.With("line", name),
		status: Status{
			Name:  name,
			State: Stopped,
			Since: time.Now(),
		},
	}
}

// Status returns the worker's state now.
func (w *Worker) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Running sets the state to running. A run calls it once it has its lease and its
// checkpoint.
func (w *Worker) Running() { w.set(Running, "") }

// RunningWith is Running for a run that goes on in spite of some trouble.
func (w *Worker) RunningWith(trouble string) { w.set(Running, trouble) }

func (w *Worker) set(state State, fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.State == state && w.status.Error == fault {
		return
	}
	w.status = Status{
		Name:  w.name,
		State: state,
		Error: fault,
		Since: time.Now(),
	}
}

// Start repeats run in a goroutine until ctx ends or Close is called. It returns the
// channel that run sends its batches to, and closes the channel at the end.
func (w *Worker) Start(
	ctx context.Context, run func(context.Context, chan<- *message.Message) error,
) (<-chan *message.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errors.New("the subscriber is closed")
	}
	ctx, cancel := context.WithCancel(ctx)
	w.cancel = append(w.cancel, cancel)
	out := make(chan *message.Message)
	w.done.Go(func() {
		defer close(out)
		defer cancel()
		w.runUntilDone(ctx, func(ctx context.Context) error { return run(ctx, out) })
		w.set(Stopped, "")
	})
	return out, nil
}

// Close stops the intake of new batches and waits until the batch in flight is finished.
// It closes no client.
func (w *Worker) Close() error {
	w.mu.Lock()
	w.closed = true
	for _, cancel := range w.cancel {
		cancel()
	}
	w.mu.Unlock()
	w.done.Wait()
	return nil
}

// runUntilDone repeats run until ctx ends, with a pause after each failure. A run that
// lasted longer than two of the longest pauses counts as a success, and resets the pause.
// A failure that repeats is logged once.
func (w *Worker) runUntilDone(ctx context.Context, run func(context.Context) error) {
	pause := pauseMin
	var logged logonce.Last
	w.set(Waiting, "")
	for ctx.Err() == nil {
		began := time.Now()
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrHandedOver) {
			w.set(Waiting, "")
			continue
		}
		w.set(Waiting, err.Error())
		if time.Since(began) > 2*pauseMax {
			pause = pauseMin
			logged.Changes("")
		}
		if logged.Changes(err.Error()) {
			w.logFailure(err)
		}
		if wait.For(ctx, pause+rand.N(pause)) != nil { //nolint:gosec // jitter is no secret
			return
		}
		pause = min(2*pause, pauseMax)
	}
}

func (w *Worker) logFailure(err error) {
	details := []any{"error", err}
	var panicked *PanicError
	if errors.As(err, &panicked) {
		details = append(details, "stack", panicked.Stack)
	}
	w.log.Warn("worker failed; it restarts at its checkpoint", details...)
}
