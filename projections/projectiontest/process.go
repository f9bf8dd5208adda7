package projectiontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// process describes a process that runs the projection until it reaches the end of the
// journal or crashes.
type process struct {
	projection projections.Projection
	batchMax   int               // events per batch; 0 means the engine's default
	session    map[string]string // settings of its session that differ from the fixture's
	// deliver splits a batch into the batches to deliver, which may repeat events. If it
	// is nil, the batch is delivered whole.
	deliver     func([]events.Envelope) [][]events.Envelope
	crash       crashPoint // in its first batch
	failuresMax int        // deliveries that may fail before the process counts as stuck
}

// crashPoint is the point at which a process crashes.
type crashPoint int

const (
	noCrash           crashPoint = iota
	crashAfterWriting            // its session ends after the rows were written
	crashFailedCommit            // COMMIT fails
	crashInCommit                // its session ends in COMMIT
	crashAfterCommit             // its session ends after COMMIT, before the delivery is acknowledged
)

var crashPoints = []crashPoint{crashAfterWriting, crashFailedCommit, crashInCommit, crashAfterCommit}

// processTimeout is the time after which a process counts as stuck.
const processTimeout = 20 * time.Second

var errCrashed = errors.New("projectiontest: this process has crashed")

// run starts a process and waits for its end. It returns an error if the process neither
// reached the end of the journal nor crashed as it was to.
func (f *fixture) run(p process) error {
	f.t.Helper()
	return f.start(p).wait()
}

// runningProcess is a process that was started.
type runningProcess struct {
	process
	fixture  *fixture
	worker   *worker.Worker
	stop     func()
	failures int // deliveries that failed; only the handler uses it

	done     chan struct{} // closed when the process has ended
	doneOnce sync.Once
	err      error // set before done is closed
}

func (f *fixture) start(p process) *runningProcess {
	f.t.Helper()
	r := &runningProcess{
		process: p,
		fixture: f,
		done:    make(chan struct{}),
	}
	session := f.session(p.session)
	switch p.crash {
	case crashFailedCommit:
		session.RuntimeParams[commitSetting] = "fails"
	case crashInCommit:
		session.RuntimeParams[commitSetting] = "dies"
	case crashAfterWriting:
		r.projection.Apply = r.crashAfter(p.projection.Apply)
	case noCrash, crashAfterCommit:
	}
	r.stop = testenv.RunRouter(f.t, func(router *message.Router) {
		router.AddMiddleware(worker.ReportFault, r.middleware)
		config := projections.Config{
			Postgres: session,
			Pool:     events.MainPool,
			BatchMax: p.batchMax,
			Log:      slog.New(slog.DiscardHandler),
		}
		r.worker = projections.AddTo(router, config, r.projection)[0]
	})
	return r
}

// wait waits until the process and its sessions have ended.
func (r *runningProcess) wait() error {
	r.fixture.t.Helper()
	timer := time.NewTimer(processTimeout)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
		r.end(fmt.Errorf("it did not reach the end of the journal within %s: %+v",
			processTimeout, r.worker.Status()))
	}
	r.stop()
	r.fixture.awaitNoSessions()
	return r.err
}

func (r *runningProcess) end(err error) {
	r.doneOnce.Do(func() {
		r.err = err
		close(r.done)
	})
}

func (r *runningProcess) hasEnded() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// middleware runs before the engine's own. It splits each batch as the process's deliver
// says, and ends the process after a crash or at the end of the journal.
func (r *runningProcess) middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		batch := worker.BatchOf[journal.Batch](msg)
		pieces := [][]events.Envelope{batch.Events}
		if r.deliver != nil {
			pieces = r.deliver(batch.Events)
		}
		last := batch.Events[len(batch.Events)-1].Seq
		for _, piece := range pieces {
			if r.hasEnded() {
				return nil, errCrashed
			}
			batch.Events = piece
			if _, err := next(msg); err != nil {
				r.deliveryFailed(err)
				return nil, err
			}
			if r.crash == crashAfterCommit {
				r.end(r.fixture.terminate(msg.Context(), batch.Lease.Conn))
				return nil, errCrashed
			}
		}
		if last >= r.fixture.head {
			r.end(nil)
		}
		return nil, nil
	}
}

// deliveryFailed ends the process if it was to crash, or if too many of its deliveries
// have failed.
func (r *runningProcess) deliveryFailed(err error) {
	switch r.crash {
	case crashAfterWriting, crashFailedCommit, crashInCommit:
		r.end(nil)
		return
	case noCrash, crashAfterCommit:
	}
	r.failures++
	if r.failures > r.failuresMax {
		r.end(fmt.Errorf("its worker stops: %w", err))
	}
}

type applyFunc = func(context.Context, pgx.Tx, []projections.Event) error

// crashAfter returns an Apply that calls apply and then terminates its session.
func (r *runningProcess) crashAfter(apply applyFunc) applyFunc {
	return func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		if r.hasEnded() {
			return context.Canceled
		}
		if err := apply(ctx, tx, batch); err != nil {
			return err
		}
		return r.fixture.terminate(ctx, tx.Conn())
	}
}
