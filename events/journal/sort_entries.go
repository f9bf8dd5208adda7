package journal

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
)

// sortedEntries is a batch, sorted by what the Writer does with each entry. An entry that
// has its seq but cannot be read is both fresh and parked: the journal stays dense, and
// its raw fields are kept.
type sortedEntries struct {
	fresh    []events.Envelope // consecutive, from the checkpoint on
	repeated []repeatedEntry   // the journal has their seq already
	parked   []events.Entry    // for the dead letters
}

// repeatedEntry is an entry with a seq that the journal has.
type repeatedEntry struct {
	events.Entry
	previous int64 // the seq of the last event before this entry on the stream
}

// sortEntries sorts the entries of a batch. It fails with a stopError of ErrHole if an
// event is missing.
//
// Commands number their events without gaps, in stream order. So the seq of an entry
// decides, given the next seq that the journal needs and the log's head:
//
//  1. No seq: no command wrote the entry. It is parked.
//  2. Below the next seq: repeated. foreignEntries compares it with the journal.
//  3. Above the log's head: the seq was never assigned. The entry is foreign and parked.
//  4. The next seq: fresh.
//  5. Above the next seq, which follows later in the batch: the entry is foreign and
//     parked.
//  6. Above the next seq, which does not follow: a hole.
func sortEntries(checkpoint int64, head stream.Head, entries []events.Entry) (sortedEntries, error) {
	var sorted sortedEntries
	next := checkpoint + 1
	hasNext := func(e events.Entry) bool { return e.Envelope.Seq == next }
	for i, entry := range entries {
		seq := entry.Envelope.Seq
		switch {
		case seq == 0:
			sorted.parked = append(sorted.parked, entry)
		case seq < next:
			sorted.repeated = append(sorted.repeated, repeatedEntry{Entry: entry, previous: next - 1})
		case head.Exists && seq > head.Seq:
			sorted.parked = append(sorted.parked,
				entry.Foreign("seq %d was never assigned: the log ends at %d", seq, head.Seq))
		case seq == next:
			next++
			sorted.fresh = append(sorted.fresh, entry.Envelope)
			if entry.Err != nil {
				sorted.parked = append(sorted.parked, entry)
			}
		case slices.ContainsFunc(entries[i:], hasNext):
			sorted.parked = append(sorted.parked,
				entry.Foreign("seq %d stands before seq %d on the stream", seq, next))
		default:
			err := fmt.Errorf("%w: the journal ends at seq %d, but the stream continues with seq %d in entry %s",
				ErrHole, next-1, seq, entry.StreamID)
			return sorted, &stopError{error: err, preceding: i}
		}
	}
	return sorted, nil
}

// logHead reads the head of Redis's log *after* the batch was read, so any seq above it
// was never assigned. It returns an empty head if Redis cannot be reached, or if Redis
// went back to an older state and no longer has the batch's entries. Then the batch is
// the only copy of its events, and is journaled as it was read.
func (w *Writer) logHead(ctx context.Context, batch *StreamBatch) stream.Head {
	head, err := stream.ReadHead(ctx, w.Redis, batch.Pool)
	if err != nil {
		return stream.Head{}
	}
	aboveHead := slices.IndexFunc(batch.Entries, func(e events.Entry) bool {
		return e.Envelope.Seq > head.Seq
	})
	if !head.Exists || aboveHead < 0 {
		return head
	}
	entry := batch.Entries[aboveHead]
	found, err := w.Redis.XRange(ctx, batch.Pool.StreamKey(), entry.StreamID, entry.StreamID).Result()
	if err != nil || len(found) == 0 {
		return stream.Head{}
	}
	idInRedis := events.FieldText(found[0].Values[events.FieldEventID])
	idInBatch := events.FieldText(entry.Fields[events.FieldEventID])
	if idInRedis != idInBatch {
		return stream.Head{}
	}
	return head
}

// foreignEntries returns the repeated entries that no command wrote. Most repeated
// entries are events that were delivered twice, and are skipped. An entry that carries
// another event than the journal has under its seq is either
//
//   - foreign, if Redis's log is the journal's own, and the entry's seq is out of order
//     on the stream;
//   - or a fork, ErrFork, if Redis may have another log, or if the entry directly follows
//     the event whose seq it repeats: then it is unknown which of the two a command
//     wrote. The error is a stopError. Of another log, no entry counts as preceding.
func (w *Writer) foreignEntries(
	ctx context.Context,
	tx pgx.Tx,
	batch *StreamBatch,
	checkpoint int64,
	head stream.Head,
	repeated []repeatedEntry,
) ([]events.Entry, error) {
	envelopes := make([]events.Envelope, len(repeated))
	for i, entry := range repeated {
		envelopes[i] = entry.Envelope
	}
	differing, err := differingEvents(ctx, tx, batch.Pool.Name(), envelopes)
	if err != nil || len(differing) == 0 {
		return nil, err
	}
	sameLog, err := w.isSameLog(ctx, tx, batch, checkpoint, head)
	if err != nil {
		return nil, err
	}
	var foreign []events.Entry
	for _, entry := range repeated {
		e := entry.Envelope
		if !slices.Contains(differing, eventKey{Seq: e.Seq, EventID: e.EventID}) {
			continue
		}
		if !sameLog {
			return nil, &stopError{error: forkError(batch.Pool, e.Seq, entry.StreamID)}
		}
		if e.Seq >= entry.previous {
			return nil, &stopError{
				error: forkError(batch.Pool, e.Seq, entry.StreamID),
				preceding: slices.IndexFunc(batch.Entries, func(other events.Entry) bool {
					return other.Envelope.Seq == e.Seq
				}),
			}
		}
		foreign = append(foreign, entry.Foreign("seq %d is another event", e.Seq))
	}
	return foreign, nil
}

// isSameLog reports whether Redis's log is the one that the journal recorded up to its
// checkpoint: it has the batch's epoch, it does not end before the checkpoint, and the
// event at the checkpoint is the same, if the stream still has it.
func (w *Writer) isSameLog(
	ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, head stream.Head,
) (bool, error) {
	if !head.Exists || head.Epoch != batch.Epoch || head.Seq < checkpoint {
		return false, nil
	}
	if checkpoint == 0 {
		return true, nil
	}
	id, found, err := stream.FindEntry(ctx, w.Redis, batch.Pool, checkpoint, 0)
	if err != nil {
		return false, err
	}
	if !found {
		return true, nil
	}
	atCheckpoint := []events.Envelope{{Seq: checkpoint, EventID: id}}
	differing, err := differingEvents(ctx, tx, batch.Pool.Name(), atCheckpoint)
	return len(differing) == 0, err
}
