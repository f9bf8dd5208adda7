package projections

import (
	"context"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/worker"
)

// Config is the configuration that all projections of a process share.
type Config struct {
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	BatchMax int // events per transaction; 0 means 2,000
	Log      *slog.Logger
}

// AddTo adds one handler per projection to the router, and returns the handlers' workers
// in the order of list. The caller runs and closes the router. A batch passes through the
// middlewares in the order in which they are added.
//
// A transient error (a lost connection, a deadlock, a shutdown) parks no event. It fails
// the delivery, and the worker starts again at the checkpoint.
func AddTo(router *message.Router, config Config, list ...Projection) []*worker.Worker {
	workers := make([]*worker.Worker, len(list))
	pages := journal.NewPageCache(config.Pool)
	for i, p := range list {
		subscriber := journal.NewSubscriber(journal.SubscriberConfig{
			Postgres: config.Postgres,
			Pool:     config.Pool,
			Pages:    pages,
			Reader:   p.Name,
			BatchMax: config.BatchMax,
			Log:      config.Log,
			Prepare:  func(ctx context.Context, conn *pgx.Conn) error { return prepareTables(ctx, conn, p) },
		})
		name := "projection " + p.Name
		apply := func(msg *message.Message) error { return applyReady(p, msg) }
		handler := router.AddConsumerHandler(name, journal.Topic(config.Pool), subscriber, apply)
		log := config.Log.With("projection", p.Name)
		handler.AddMiddleware(worker.ReportFault, dedup(p), park(p, log))
		workers[i] = subscriber.Worker
	}
	return workers
}

// Replay applies events to a projection as its handler does: through the same
// middlewares, in one transaction, which it begins on db. It skips the events that the
// checkpoint accounts for, and parks those that cannot be applied. The tables, the
// checkpoint and the dead letters are those in db's search_path.
func Replay(
	ctx context.Context, db Beginner, p Projection, pool string, list []events.Envelope, log *slog.Logger,
) error {
	msg := message.NewMessage("", nil)
	msg.SetContext(ctx)
	handler := park(p, log)(func(msg *message.Message) ([]*message.Message, error) {
		return nil, applyReady(p, msg)
	})
	return applyFresh(msg, db, p, &journal.Batch{Pool: pool, Events: list}, handler)
}

// applyReady is the innermost handler: it applies the events that dedup and park let
// through.
func applyReady(p Projection, msg *message.Message) error {
	batch := txBatchOf(msg)
	return p.Apply(msg.Context(), batch.tx, batch.ready)
}

// txBatch is a batch of events and the transaction that applies it. The middlewares pass
// it on in the context of its message, since a Watermill handler takes nothing but a
// message.
type txBatch struct {
	tx    pgx.Tx
	pool  string
	fresh []events.Envelope // the events beyond the checkpoint; set by dedup
	ready []Event           // the decoded events to apply; set by park
}

type txBatchKey struct{}

// txBatchOf returns the batch that a middleware has set on the message.
func txBatchOf(msg *message.Message) *txBatch {
	batch, _ := msg.Context().Value(txBatchKey{}).(*txBatch)
	return batch
}

// setOn sets the batch on a message, for the next handler to read.
func (b *txBatch) setOn(msg *message.Message) {
	msg.SetContext(context.WithValue(msg.Context(), txBatchKey{}, b))
}
