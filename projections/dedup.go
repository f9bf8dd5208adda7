package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/worker"
)

// dedup is the middleware that applies each event once. It begins the transaction, drops
// the events that the checkpoint already accounts for, and moves the checkpoint in the
// same transaction as the rows. It refuses a batch that begins beyond the next event: a
// hole in the journal is never skipped.
func dedup(p Projection) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			batch := worker.BatchOf[journal.Batch](msg)
			if batch == nil {
				return nil, errors.New("the message carries no batch of journal events")
			}
			return nil, applyFresh(msg, batch.Lease.Conn, p, batch, next)
		}
	}
}

// applyFresh passes the events of a batch that are beyond the checkpoint to next, and
// moves the checkpoint past them. Both happen in one transaction, which it begins on db.
func applyFresh(
	msg *message.Message, db Beginner, p Projection, batch *journal.Batch, next message.HandlerFunc,
) error {
	ctx := msg.Context()
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(ctx, tx, p.Name, batch.Pool)
		if err != nil {
			return err
		}
		if checkpoint < batch.After {
			return fmt.Errorf("the checkpoint of %s is at seq %d, but this worker left it at %d: %w",
				p.Name, checkpoint, batch.After, worker.ErrFenced)
		}
		fresh, err := eventsAfter(checkpoint, batch.Events)
		if err != nil {
			return explainHole(ctx, tx, batch.Pool, checkpoint, err)
		}
		if len(fresh) == 0 {
			return nil
		}
		b := &txBatch{
			tx:    tx,
			pool:  batch.Pool,
			fresh: fresh,
		}
		b.setOn(msg)
		if _, err := next(msg); err != nil {
			return err
		}
		last := fresh[len(fresh)-1].Seq
		return worker.MoveCheckpoint(ctx, tx, p.Name, batch.Pool, checkpoint, last)
	})
}

// explainHole returns journal.ErrDetached, which names the partitions to attach, if the
// missing events are in detached partitions. Otherwise it returns hole.
func explainHole(ctx context.Context, tx pgx.Tx, pool string, checkpoint int64, hole error) error {
	err := journal.CheckComplete(ctx, tx, pool, checkpoint)
	if errors.Is(err, journal.ErrDetached) {
		return err
	}
	return hole
}

// eventsAfter returns the events of a batch beyond the checkpoint, or journal.ErrHole if
// one of them is missing.
func eventsAfter(checkpoint int64, batch []events.Envelope) ([]events.Envelope, error) {
	for len(batch) > 0 && batch[0].Seq <= checkpoint {
		batch = batch[1:]
	}
	for i := range batch {
		want := checkpoint + 1 + int64(i)
		if batch[i].Seq != want {
			return nil, fmt.Errorf("%w: the journal lacks event %d; the next event is %d",
				journal.ErrHole, want, batch[i].Seq)
		}
	}
	return batch, nil
}
