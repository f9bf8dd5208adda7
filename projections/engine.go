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

// Config says what to run projections with. The Router and its lifetime are the caller's.
type Config struct {
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	BatchMax int // events in a transaction; 2,000 unless set
	Log      *slog.Logger
}

// AddTo adds one handler per projection to the router, and returns their lines. The middlewares stand in the order in
// which a batch meets them. What is transient (a lost connection, a deadlock, a shutdown) is nobody's to park: it
// fails the delivery, and the line begins again at the checkpoint.
func AddTo(router *message.Router, config Config, list ...Projection) []*worker.Worker {
	lines := make([]*worker.Worker, len(list))
	pages := journal.NewPageCache(config.Pool)
	for i, p := range list {
		subscriber := journal.NewSubscriber(journal.SubscriberConfig{
			Postgres: config.Postgres, Pool: config.Pool, Pages: pages, Reader: p.Name, BatchMax: config.BatchMax, Log: config.Log,
			Prepare: func(ctx context.Context, conn *pgx.Conn) error { return CreateTables(ctx, conn, p) },
		})
		handler := router.AddConsumerHandler("projection "+p.Name, journal.Topic(config.Pool), subscriber, func(msg *message.Message) error {
			return applyWork(p, msg)
		})
		handler.AddMiddleware(worker.ReportFault, dedup(p), park(p, config.Log.With("projection", p.Name)))
		lines[i] = subscriber.Worker
	}
	return lines
}

// Replay gives events to a projection as its handler gets them from the Router: through the same middlewares, in one
// transaction that it begins on db. What the checkpoint accounts for is passed over, what cannot be applied is parked.
// The tables, the checkpoint and the dead letters are those that db's search_path finds.
func Replay(ctx context.Context, db Beginner, p Projection, pool string, list []events.Envelope, log *slog.Logger) error {
	msg := message.NewMessage("", nil)
	msg.SetContext(ctx)
	handler := park(p, log)(func(msg *message.Message) ([]*message.Message, error) { return nil, applyWork(p, msg) })
	return once(msg, db, p, &journal.Batch{Pool: pool, Events: list}, handler)
}

func applyWork(p Projection, msg *message.Message) error {
	w := workOf(msg)
	return p.Apply(msg.Context(), w.tx, w.ready)
}

// work is what the middlewares hand down with a message: the transaction, and what of the batch is to be done in it.
type work struct {
	tx    pgx.Tx
	pool  string
	fresh []events.Envelope // what dedup left
	ready []Event           // what park lets through
}

type workKey struct{}

func workOf(msg *message.Message) *work {
	w, _ := msg.Context().Value(workKey{}).(*work)
	return w
}

func withWork(msg *message.Message, w *work) {
	msg.SetContext(context.WithValue(msg.Context(), workKey{}, w))
}
