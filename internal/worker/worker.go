package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/internal/wait"
)

// Worker is one ordered line of work, kept running: it waits for its lease, delivers batches, and after any failure
// begins again at its checkpoint, so that nothing is lost in between. It is the part that the subscribers of the
// stream and of the journal have in common. Status may be called from anywhere.
type Worker struct {
	name string
	log  *slog.Logger

	mu     sync.Mutex
	status Status
	closed bool
	cancel []context.CancelFunc
	done   sync.WaitGroup
}

// Status says how a line stands in this process.
type Status struct {
	Name  string
	State State
	// Error is the last failure of a line that is not running, or of one that has not yet delivered since.
	Error string
	Since time.Time
}

// State is one of the states below.
type State string

// A line that is waiting does so for its turn: another process runs it, or Postgres cannot be reached.
const (
	Waiting State = "waiting"
	Running State = "running"
	Stopped State = "stopped"
)

// New returns a line that has not been started.
func New(name string, log *slog.Logger) *Worker {
	return &Worker{name: name, log: log.With("line", name), status: Status{Name: name, State: Stopped, Since: time.Now()}}
}

// Status returns how the line stands now.
func (w *Worker) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Running says that a stretch of work has what it needs and delivers.
func (w *Worker) Running() { w.set(Running, "") }

func (w *Worker) set(state State, fault string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.State != state || w.status.Error != fault {
		w.status = Status{Name: w.name, State: state, Error: fault, Since: time.Now()}
	}
}

var errClosed = errors.New("the subscriber is closed")

// Start runs stretches of work until ctx ends or Close is called, and then closes the channel it returns.
func (w *Worker) Start(ctx context.Context, stretch func(context.Context, chan<- *message.Message) error) (<-chan *message.Message, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, errClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	w.cancel = append(w.cancel, cancel)
	out := make(chan *message.Message)
	w.done.Go(func() {
		defer close(out)
		defer cancel()
		w.runUntilDone(ctx, func(ctx context.Context) error { return stretch(ctx, out) })
		w.set(Stopped, "")
	})
	return out, nil
}

// Close stops the intake and waits until the batch in flight is finished. It closes no client.
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

// runUntilDone pauses after a stretch that failed, longer with every failure in a row.
func (w *Worker) runUntilDone(ctx context.Context, stretch func(context.Context) error) {
	const pauseMin, pauseMax = 50 * time.Millisecond, 4 * time.Second
	pause := pauseMin
	w.set(Waiting, "")
	for ctx.Err() == nil {
		began := time.Now()
		err := stretch(ctx)
		if ctx.Err() != nil {
			return
		}
		w.set(Waiting, err.Error())
		if time.Since(began) > 2*pauseMax {
			pause = pauseMin
		}
		details := []any{"error", err, "pause_ms", pause.Milliseconds()}
		if panicked := (*PanicError)(nil); errors.As(err, &panicked) {
			details = append(details, "stack", panicked.Stack)
		}
		w.log.Warn("line interrupted; it begins again at its checkpoint", details...)
		if wait.For(ctx, pause+rand.N(pause)) != nil { //nolint:gosec // jitter is no secret
			return
		}
		pause = min(2*pause, pauseMax)
	}
}
