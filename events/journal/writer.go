package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// CheckpointName is the name of the journal's own checkpoint.
const CheckpointName = "journal"

// Writer appends the entries of one pool's stream to the table events: in order, without
// a hole, each event once. It is the handler behind a StreamSubscriber.
type Writer struct {
	// Park stores entries that are not events as dead letters. It runs in the transaction
	// that moves the checkpoint past them.
	Park func(ctx context.Context, tx pgx.Tx, entries []events.Entry) error
	// Redis is asked for the log head, which distinguishes a hole from an entry with an
	// invented seq.
	Redis redis.Cmdable
	Log   *slog.Logger

	partitions nextPartitions
}

// AddTo adds the journal of a pool to the router and returns its worker.
func (w *Writer) AddTo(router *message.Router, config StreamSubscriberConfig) *worker.Worker {
	subscriber := NewStreamSubscriber(config)
	router.AddConsumerHandler("journal", config.Pool.StreamKey(), subscriber, w.Handle).
		AddMiddleware(worker.ReportFault)
	return subscriber.Worker
}

// Handle is the Router's handler for a StreamBatch. When it returns nil, every event of
// the batch is in the journal, and every other entry is parked. ErrHole and ErrFork need
// an operator: the entries before the place are then journaled, and the reason is
// recorded for the processes that take commands.
func (w *Writer) Handle(msg *message.Message) error {
	ctx := msg.Context()
	batch := worker.BatchOf[StreamBatch](msg)
	if batch == nil {
		return errors.New("journal: the message carries no batch of the stream")
	}
	err := w.commit(ctx, batch)
	var stop *stopError
	if !errors.As(err, &stop) {
		return err
	}
	if err := w.commitPreceding(ctx, *batch, stop); err != nil {
		return err
	}
	return errors.Join(stop, recordFault(ctx, batch.Lease.Conn, batch.Pool.Name(), stop.Error()))
}

// commitPreceding journals the entries of a batch before the place of a stopError.
func (w *Writer) commitPreceding(ctx context.Context, batch StreamBatch, stop *stopError) error {
	for stop.preceding > 0 {
		batch.Entries = batch.Entries[:stop.preceding]
		err := w.commit(ctx, &batch)
		if !errors.As(err, &stop) { // a shorter batch may have a hole that the longer one filled
			return err
		}
	}
	return nil
}

// commit journals a batch in one transaction.
func (w *Writer) commit(ctx context.Context, batch *StreamBatch) error {
	var parked []events.Entry
	err := pgx.BeginFunc(ctx, batch.Lease.Conn, func(tx pgx.Tx) (err error) {
		parked, err = w.write(ctx, tx, batch)
		return err
	})
	if err != nil {
		w.partitions.reset()
		return err
	}
	if len(parked) > 0 {
		w.Log.Error("entries of the stream parked as dead letters",
			"count", len(parked), "first", parked[0].StreamID, "error", parked[0].Err)
	}
	return nil
}

// write handles a batch within a transaction, and returns the entries it parked:
//
//  1. Read the journal's checkpoint, and after it the head of Redis's log.
//  2. Sort the entries into fresh events, repeated ones, and entries to park.
//  3. Append the fresh events and move the checkpoint.
//  4. Compare the repeated entries with the journal. This comes after the append, since
//     both events of one seq may be in this batch. A repeated entry that no command wrote
//     is parked, too.
//  5. Park.
func (w *Writer) write(
	ctx context.Context, tx pgx.Tx, batch *StreamBatch,
) (parked []events.Entry, err error) {
	checkpoint, err := worker.ReadCheckpoint(ctx, tx, CheckpointName, batch.Pool.Name())
	if err != nil {
		return nil, err
	}
	head := w.logHead(ctx, batch)
	sorted, err := sortEntries(checkpoint, head, batch.Entries)
	if err != nil {
		return nil, err
	}
	if err := w.append(ctx, tx, batch, checkpoint, sorted.fresh); err != nil {
		return nil, err
	}
	foreign, err := w.foreignEntries(ctx, tx, batch, checkpoint, head, sorted.repeated)
	if err != nil {
		return nil, err
	}
	parked = slices.Concat(sorted.parked, foreign)
	if len(parked) > 0 {
		if err := w.Park(ctx, tx, parked); err != nil {
			return nil, fmt.Errorf("park entries: %w", err)
		}
	}
	return parked, nil
}

// append adds consecutive events to the journal, moves its checkpoint and notifies its
// readers. It fails with ErrFenced if the log is in another epoch than the batch, or was
// discarded.
func (w *Writer) append(
	ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, fresh []events.Envelope,
) error {
	if len(fresh) == 0 {
		return nil
	}
	pool := batch.Pool.Name()
	if err := appendEvents(ctx, tx, &w.partitions, batch.Pool, checkpoint, fresh, w.Log); err != nil {
		return err
	}
	// The epoch is read after the checkpoint has moved; RaiseEpoch explains why. Postgres
	// sends the notification when the transaction commits.
	const notify = `
		SELECT coalesce((SELECT epoch FROM pools WHERE pool = $2), $3),
		       coalesce((SELECT discarded_epoch FROM pools WHERE pool = $2), 0)
		FROM pg_notify($1, $2)`
	var epoch, discarded int64
	if err := tx.QueryRow(ctx, notify, notifyChannel, pool, FirstEpoch).Scan(&epoch, &discarded); err != nil {
		return fmt.Errorf("notify readers of the journal: %w", err)
	}
	switch {
	case discarded != 0:
		return errDiscarded
	case epoch != batch.Epoch:
		return fmt.Errorf("the batch was read in epoch %d, the log is in epoch %d: %w",
			batch.Epoch, epoch, worker.ErrFenced)
	}
	return nil
}

// appendEvents adds consecutive events that follow a seq, and moves the journal's
// checkpoint from that seq to the last of them.
func appendEvents(
	ctx context.Context,
	tx pgx.Tx,
	partitions *nextPartitions,
	pool events.Pool,
	after int64,
	list []events.Envelope,
	log *slog.Logger,
) error {
	last := list[len(list)-1].Seq
	if err := partitions.ensure(ctx, tx, pool, last, log); err != nil {
		return err
	}
	if err := copyEvents(ctx, tx, list); err != nil {
		return err
	}
	return worker.MoveCheckpoint(ctx, tx, CheckpointName, pool.Name(), after, last)
}

// copyEvents inserts events with COPY.
func copyEvents(ctx context.Context, tx pgx.Tx, fresh []events.Envelope) error {
	rows := pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) {
		e := &fresh[i]
		return []any{
			e.Pool,
			e.Seq,
			pgtype.UUID{Bytes: e.EventID, Valid: true}, // pgx converts any other UUID type through text
			string(e.Type),
			e.SKU,
			e.HoldID,
			[]byte(e.Payload),
			[]byte(e.Metadata),
			e.At,
		}, nil
	})
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"events"}, eventColumns, rows); err != nil {
		return fmt.Errorf("append to the journal: %w", err)
	}
	return nil
}
