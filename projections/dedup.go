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

// dedup is the middleware that makes each event count once. It opens the transaction, drops what the checkpoint says
// was applied before, and moves the checkpoint in the same transaction as the rows. A batch that begins beyond the
// next event is refused: a hole is never skipped.
func dedup(p Projection) message.HandlerMiddleware {
	return func(next message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			batch := worker.BatchOf[journal.Batch](msg)
			if batch == nil {
				return nil, errors.New("the message carries no batch of the journal")
			}
			return nil, once(msg, batch.Lease.Conn, p, batch, next)
		}
	}
}

// once hands on what of a batch was not applied before, within a transaction that it begins on db.
func once(msg *message.Message, db Beginner, p Projection, batch *journal.Batch, next message.HandlerFunc) error {
	ctx := msg.Context()
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(ctx, tx, p.Name, batch.Pool)
		if err != nil {
			return err
		}
		if checkpoint < batch.After {
			return fmt.Errorf("the checkpoint is at %d, and was left at %d: %w", checkpoint, batch.After, worker.ErrFenced)
		}
		fresh, err := after(checkpoint, batch.Events)
		if err != nil {
			return explainHole(ctx, tx, batch.Pool, checkpoint, err)
		}
		if len(fresh) == 0 {
			return nil
		}
		withWork(msg, &work{tx: tx, pool: batch.Pool, fresh: fresh})
		if _, err := next(msg); err != nil {
			return err
		}
		return worker.MoveCheckpoint(ctx, tx, p.Name, batch.Pool, checkpoint, fresh[len(fresh)-1].Seq)
	})
}

// explainHole makes of an events.ErrHole the events.ErrDetached that says what there is to do about it, where the missing
// events were detached.
func explainHole(ctx context.Context, tx pgx.Tx, pool string, checkpoint int64, hole error) error {
	if detached := journal.CheckComplete(ctx, tx, pool, checkpoint); errors.Is(detached, journal.ErrDetached) {
		return detached
	}
	return hole
}

// after returns the events beyond the checkpoint, or events.ErrHole where one is missing.
func after(checkpoint int64, batch []events.Envelope) ([]events.Envelope, error) {
	for len(batch) > 0 && batch[0].Seq <= checkpoint {
		batch = batch[1:]
	}
	for i := range batch {
		if want := checkpoint + 1 + int64(i); batch[i].Seq != want {
			return nil, fmt.Errorf("%w: the journal has no event %d, and goes on with %d", journal.ErrHole, want, batch[i].Seq)
		}
	}
	return batch, nil
}
