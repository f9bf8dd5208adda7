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

// process is one life of a process that runs the projection: from its start until it has come to the end of the
// journal, or dies.
type process struct {
	projection projections.Projection
	batchMax   int               // events that it reads at once; 0 for as many as there are
	session    map[string]string // settings of its session, where they are not the world's
	// deliver says in which pieces a batch is handed over; nil for as one. A piece may be repeated.
	deliver func([]events.Envelope) [][]events.Envelope
	death   death
	faults  int // that it lives through; with one more it is taken for stuck
}

// death is where in its first batch a process ends.
type death int

const (
	none           death = iota
	afterWriting         // its session is cut when the rows are written
	failingCommit        // COMMIT fails
	duringCommit         // its session is cut in COMMIT
	afterCommit          // its session is cut when the batch is committed, and nobody has been told
	numberOfDeaths = iota
)

// patience is how long a process may take, beyond which it is stuck.
const patience = 20 * time.Second

var errDead = errors.New("projectiontest: this process is dead")

// live runs a process to its end. The error says why it did not come there.
func (w *world) live(p process) error {
	w.t.Helper()
	return w.start(p).wait()
}

// life is a process that was started.
type life struct {
	process
	world *world
	lines []*worker.Worker
	stop  func()

	over  chan struct{} // closed when it has come to its end
	end   sync.Once
	fault error // why it ended; set before over is closed
	count int   // of the faults that it lived through; the handler's own
}

func (w *world) start(p process) *life {
	w.t.Helper()
	l := &life{process: p, world: w, over: make(chan struct{})}
	session := w.session(p.session)
	switch p.death {
	case failingCommit:
		session.RuntimeParams[commitSetting] = "fails"
	case duringCommit:
		session.RuntimeParams[commitSetting] = "dies"
	case afterWriting:
		l.projection.Apply = l.cutAfter(p.projection.Apply)
	case none, afterCommit:
	}
	l.stop = testenv.RunRouter(w.t, func(router *message.Router) {
		router.AddMiddleware(worker.ReportFault, l.middleware)
		l.lines = projections.AddTo(router, projections.Config{
			Postgres: session, Pool: events.MainPool, BatchMax: p.batchMax, Log: slog.New(slog.DiscardHandler),
		}, l.projection)
	})
	return l
}

// wait returns when the process has ended, and its sessions with it.
func (l *life) wait() error {
	l.world.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-l.over:
	case <-timer.C:
		l.finish(fmt.Errorf("it does not come to the end of the journal within %s: %+v", patience, l.lines[0].Status()))
	}
	l.stop()
	l.world.awaitNoSessions()
	return l.fault
}

func (l *life) finish(err error) {
	l.end.Do(func() {
		l.fault = err
		close(l.over)
	})
}

func (l *life) ended() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// middleware stands before those of the engine, and hands batches on to them as the process's life has it.
func (l *life) middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		batch := worker.BatchOf[journal.Batch](msg)
		pieces := [][]events.Envelope{batch.Events}
		if l.deliver != nil {
			pieces = l.deliver(batch.Events)
		}
		reached := batch.Events[len(batch.Events)-1].Seq
		for _, piece := range pieces {
			if l.ended() {
				return nil, errDead
			}
			batch.Events = piece
			if _, err := next(msg); err != nil {
				l.failed(err)
				return nil, err
			}
			if l.death == afterCommit {
				l.finish(l.world.cut(msg.Context(), batch.Lease.Conn))
				return nil, errDead
			}
		}
		if reached >= l.world.head {
			l.finish(nil)
		}
		return nil, nil
	}
}

func (l *life) failed(err error) {
	if l.death == afterWriting || l.death == failingCommit || l.death == duringCommit {
		l.finish(nil)
		return
	}
	if l.count++; l.count > l.faults {
		l.finish(fmt.Errorf("its line stops: %w", err))
	}
}

// cutAfter is an Apply that loses its session once it has written.
func (l *life) cutAfter(apply func(context.Context, pgx.Tx, []projections.Event) error) func(context.Context, pgx.Tx, []projections.Event) error {
	return func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		if l.ended() {
			return context.Canceled
		}
		if err := apply(ctx, tx, batch); err != nil {
			return err
		}
		return l.world.cut(ctx, tx.Conn())
	}
}
