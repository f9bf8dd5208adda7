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
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/worker"
)

// Writer appends what the stream delivers to the table events: in order, without a hole, each event once.
type Writer struct {
	// Park stores entries that are not events, in the transaction that moves the checkpoint past them.
	Park func(ctx context.Context, tx pgx.Tx, entries []events.Entry) error
	// Redis is asked for the end of the log, which tells a hole from an entry with an invented seq.
	Redis redis.Cmdable
	Log   *slog.Logger

	partitions nextPartitions
}

// Handle is the Router's handler: it takes a StreamBatch. When it returns nil, every event of the batch is in the
// journal and every other entry is parked. ErrHole and ErrFork ask for an operator.
func (w *Writer) Handle(msg *message.Message) error {
	ctx, batch := msg.Context(), worker.BatchOf[StreamBatch](msg)
	if batch == nil {
		return errors.New("journal: the message carries no batch of the stream")
	}
	var parked []events.Entry
	err := pgx.BeginFunc(ctx, batch.Lease.Conn, func(tx pgx.Tx) error {
		checkpoint, err := worker.ReadCheckpoint(ctx, tx, CheckpointName, batch.Pool.Name())
		if err != nil {
			return err
		}
		log := w.logHead(ctx, batch)
		sorted, err := sortEntries(checkpoint, log, batch.Entries)
		if err != nil {
			return err
		}
		if err := w.append(ctx, tx, batch, checkpoint, sorted.fresh); err != nil {
			return err
		}
		// Behind the append, since the first of two events of one seq may be in this batch.
		strangers, err := w.foreignEntries(ctx, tx, batch, checkpoint, log, sorted.repeated)
		if err != nil {
			return err
		}
		if parked = slices.Concat(sorted.parked, strangers); len(parked) == 0 {
			return nil
		}
		if err := w.Park(ctx, tx, parked); err != nil {
			return fmt.Errorf("park entries: %w", err)
		}
		return nil
	})
	if err != nil {
		w.partitions.reset()
		return err
	}
	if len(parked) > 0 {
		w.Log.Error("entries of the stream parked as dead letters", "count", len(parked), "first", parked[0].StreamID, "error", parked[0].Err)
	}
	return nil
}

// logHead returns the log that a batch was read from, whose end tells what was never assigned: it is looked at behind the
// reading, so whatever a command wrote is below it. Where Redis is gone, or fell back and no longer holds what was read,
// there is none to tell, and what was read is all that is left of it.
func (w *Writer) logHead(ctx context.Context, batch *StreamBatch) stream.Head {
	log, err := stream.ReadHead(ctx, w.Redis, batch.Pool)
	if err != nil {
		return stream.Head{}
	}
	beyond := slices.IndexFunc(batch.Entries, func(e events.Entry) bool { return e.Envelope.Seq > log.Seq })
	if !log.Exists || beyond < 0 {
		return log
	}
	entry := batch.Entries[beyond]
	still, err := w.Redis.XRange(ctx, batch.Pool.StreamKey(), entry.StreamID, entry.StreamID).Result()
	if err != nil || len(still) == 0 || events.FieldText(still[0].Values[events.FieldEventID]) != events.FieldText(entry.Fields[events.FieldEventID]) {
		return stream.Head{}
	}
	return log
}

// sortedEntries is a delivery, sorted by what is to be done. An entry that counts in the sequence but cannot be read
// is both fresh, so that the journal stays dense, and parked, so that nothing of it is lost.
type sortedEntries struct {
	fresh    []events.Envelope
	repeated []repeatedEntry
	parked   []events.Entry
}

// repeatedEntry is an entry whose seq the journal has.
type repeatedEntry struct {
	events.Entry
	previous int64 // the last seq before it
}

func sortEntries(checkpoint int64, log stream.Head, entries []events.Entry) (sortedEntries, error) {
	var sorted sortedEntries
	next := checkpoint + 1
	for i, entry := range entries {
		seq := entry.Envelope.Seq
		switch {
		case seq == 0:
			sorted.parked = append(sorted.parked, entry)
		case seq < next:
			sorted.repeated = append(sorted.repeated, repeatedEntry{entry, next - 1})
		case log.Exists && seq > log.Seq:
			sorted.parked = append(sorted.parked, entry.Foreign("seq %d was never assigned: the log ends at %d", seq, log.Seq))
		case seq == next:
			next++
			sorted.fresh = append(sorted.fresh, entry.Envelope)
			if entry.Err != nil {
				sorted.parked = append(sorted.parked, entry)
			}
		case slices.ContainsFunc(entries[i:], func(later events.Entry) bool { return later.Envelope.Seq == next }):
			sorted.parked = append(sorted.parked, entry.Foreign("seq %d stands before seq %d on the stream", seq, next))
		default:
			return sorted, fmt.Errorf("%w: the journal ends at seq %d, the stream goes on with %d in the entry %s", ErrHole, next-1, seq, entry.StreamID)
		}
	}
	return sorted, nil
}

// foreignEntries returns the repeated entries that no command wrote: they carry the seq of another event, in a log that is the
// journal's own up to its end. Where it may be another log, or where it cannot be told which of two events is the log's,
// it fails with ErrFork.
func (w *Writer) foreignEntries(ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, log stream.Head, repeated []repeatedEntry) ([]events.Entry, error) {
	envelopes := make([]events.Envelope, len(repeated))
	for i, entry := range repeated {
		envelopes[i] = entry.Envelope
	}
	differing, err := differingEvents(ctx, tx, batch.Pool.Name(), envelopes)
	if err != nil || len(differing) == 0 {
		return nil, err
	}
	ours, err := w.isSameLog(ctx, tx, batch, checkpoint, log)
	if err != nil {
		return nil, err
	}
	var strangers []events.Entry
	for _, entry := range repeated {
		e := entry.Envelope
		if !slices.Contains(differing, eventKey{e.Seq, e.EventID}) {
			continue
		}
		if !ours || e.Seq >= entry.previous {
			return nil, forkError(batch.Pool, e.Seq, entry.StreamID)
		}
		strangers = append(strangers, entry.Foreign("seq %d is another event", e.Seq))
	}
	return strangers, nil
}

// isSameLog reports whether Redis's log is the journal's own up to a checkpoint: of the same life, not behind it, and with the
// same event there, as far as the stream still holds that one.
func (w *Writer) isSameLog(ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, log stream.Head) (bool, error) {
	if !log.Exists || log.Epoch != batch.Epoch || log.Seq < checkpoint {
		return false, nil
	}
	if checkpoint == 0 {
		return true, nil
	}
	id, found, err := stream.FindEntry(ctx, w.Redis, batch.Pool, checkpoint, 0)
	if err != nil || !found {
		return err == nil, err
	}
	differing, err := differingEvents(ctx, tx, batch.Pool.Name(), []events.Envelope{{Seq: checkpoint, EventID: id}})
	return len(differing) == 0, err
}

func (w *Writer) append(ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, fresh []events.Envelope) error {
	if len(fresh) == 0 {
		return nil
	}
	pool, last := batch.Pool.Name(), fresh[len(fresh)-1].Seq
	if err := w.partitions.ensure(ctx, tx, last, w.Log); err != nil {
		return err
	}
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"events"}, eventColumns, pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) {
		e := &fresh[i]
		id := pgtype.UUID{Bytes: e.EventID, Valid: true} // pgx would turn any other UUID into text and back
		return []any{e.Pool, e.Seq, id, string(e.Type), e.SKU, e.HoldID, []byte(e.Payload), []byte(e.Metadata), e.At}, nil
	}))
	if err != nil {
		return fmt.Errorf("append to the journal: %w", err)
	}
	if err := worker.MoveCheckpoint(ctx, tx, CheckpointName, pool, checkpoint, last); err != nil {
		return err
	}
	// The epoch is looked at after the checkpoint was moved: see RaiseEpoch. A notification waits for the commit.
	const notify = `SELECT coalesce((SELECT epoch FROM pools WHERE pool = $2), $3) FROM pg_notify($1, $2)`
	var epoch int64
	if err := tx.QueryRow(ctx, notify, notifyChannel, pool, FirstEpoch).Scan(&epoch); err != nil {
		return fmt.Errorf("notify readers of the journal: %w", err)
	}
	if epoch != batch.Epoch {
		return fmt.Errorf("the batch was read in epoch %d, the log is in epoch %d: %w", batch.Epoch, epoch, worker.ErrFenced)
	}
	return nil
}

// AddTo adds the journal of a pool to the router, and returns its line.
func (w *Writer) AddTo(router *message.Router, config StreamSubscriberConfig) *worker.Worker {
	subscriber := NewStreamSubscriber(config)
	router.AddConsumerHandler("journal", config.Pool.StreamKey(), subscriber, w.Handle).AddMiddleware(worker.ReportFault)
	return subscriber.Worker
}
