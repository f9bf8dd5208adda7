package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/redis/go-redis/v9"
)

// Journal appends what the stream delivers to the table events: in order, without a hole, each event once.
type Journal struct {
	// Park stores entries that are not events, in the transaction that moves the checkpoint past them.
	Park func(ctx context.Context, tx pgx.Tx, entries []Entry) error
	// Redis is asked for the end of the log, which tells a hole from an entry with an invented seq.
	Redis redis.Cmdable
	Log   *slog.Logger

	parts partsAhead
}

// JournalCheckpoint is the name under which the journal keeps its own checkpoint.
const JournalCheckpoint = "journal"

// journalChannel is what the journal notifies its readers on.
const journalChannel = "stockstream_journal"

// Errors that stop the journal's line. They are not healed by parking: an event is missing, or there are two.
var (
	ErrHole = errors.New("the log has a hole")
	ErrFork = errors.New("the log has forked")
)

// Handle is the Router's handler: it takes a StreamBatch. When it returns nil, every event of the batch is in the
// journal and every other entry is parked. ErrHole and ErrFork ask for an operator.
func (j *Journal) Handle(msg *message.Message) error {
	ctx, batch := msg.Context(), BatchOf[StreamBatch](msg)
	if batch == nil {
		return errors.New("journal: the message carries no batch of the stream")
	}
	err := pgx.BeginFunc(ctx, batch.Lease.Conn, func(tx pgx.Tx) error {
		pool := batch.Pool.Name()
		checkpoint, err := ReadCheckpoint(ctx, tx, JournalCheckpoint, pool)
		if err != nil {
			return err
		}
		sorted, err := j.sort(ctx, batch.Pool, checkpoint, batch.Entries)
		if err != nil {
			return err
		}
		if len(sorted.parked) > 0 {
			j.Log.Error("entries of the stream parked as dead letters", "count", len(sorted.parked), "first", sorted.parked[0].StreamID, "error", sorted.parked[0].Err)
			if err := j.Park(ctx, tx, sorted.parked); err != nil {
				return fmt.Errorf("park entries: %w", err)
			}
		}
		if err := j.append(ctx, tx, batch, checkpoint, sorted.fresh); err != nil {
			return err
		}
		return verifyRepeats(ctx, tx, pool, sorted.repeated) // last, since the first of two may be in this batch
	})
	if err != nil {
		j.parts.forget()
	}
	return err
}

// sortedEntries is a delivery, sorted by what is to be done. An entry that counts in the sequence but cannot be read
// is both fresh, so that the journal stays dense, and parked, so that nothing of it is lost.
type sortedEntries struct {
	fresh    []Envelope
	repeated []Envelope
	parked   []Entry
}

func (j *Journal) sort(ctx context.Context, pool Pool, checkpoint int64, entries []Entry) (sortedEntries, error) {
	var sorted sortedEntries
	next := checkpoint + 1
	for _, entry := range entries {
		seq := entry.Envelope.Seq
		switch {
		case seq == 0:
			sorted.parked = append(sorted.parked, entry)
		case seq == next:
			next++
			sorted.fresh = append(sorted.fresh, entry.Envelope)
			if entry.Err != nil {
				sorted.parked = append(sorted.parked, entry)
			}
		case seq < next:
			sorted.repeated = append(sorted.repeated, entry.Envelope)
		default:
			log, err := ReadLog(ctx, j.Redis, pool)
			if err != nil {
				return sorted, err
			}
			if seq <= log.Seq || !log.Exists {
				return sorted, fmt.Errorf("%w: the journal ends at seq %d, the stream goes on with %d", ErrHole, next-1, seq)
			}
			entry.Err = fmt.Errorf("seq %d was never assigned: the log ends at %d", seq, log.Seq)
			sorted.parked = append(sorted.parked, entry)
		}
	}
	return sorted, nil
}

// verifyRepeats makes sure that what looks like a redelivery is one: the same seq must mean the same event.
func verifyRepeats(ctx context.Context, db Querier, pool string, repeated []Envelope) error {
	if len(repeated) == 0 {
		return nil
	}
	seqs, ids := make([]int64, len(repeated)), make([]uuid.UUID, len(repeated))
	for i, e := range repeated {
		seqs[i], ids[i] = e.Seq, e.EventID
	}
	const query = `
		SELECT seq FROM events JOIN unnest($2::bigint[], $3::uuid[]) AS repeat (seq, event_id) USING (seq)
		WHERE pool = $1 AND seq BETWEEN $4 AND $5 AND events.event_id <> repeat.event_id ORDER BY seq LIMIT 1`
	var forked int64
	err := db.QueryRow(ctx, query, pool, seqs, ids, slices.Min(seqs), slices.Max(seqs)).Scan(&forked)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("compare repeated entries: %w", err)
	}
	return fmt.Errorf("%w: seq %d is one event in the journal and another in the stream", ErrFork, forked)
}

var eventColumns = []string{"pool", "seq", "event_id", "type", "sku", "hold_id", "payload", "metadata", "at"}

func (j *Journal) append(ctx context.Context, tx pgx.Tx, batch *StreamBatch, checkpoint int64, fresh []Envelope) error {
	if len(fresh) == 0 {
		return nil
	}
	pool, last := batch.Pool.Name(), fresh[len(fresh)-1].Seq
	if err := j.parts.reach(ctx, tx, last, j.Log); err != nil {
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
	if err := MoveCheckpoint(ctx, tx, JournalCheckpoint, pool, checkpoint, last); err != nil {
		return err
	}
	// The epoch is looked at after the checkpoint was moved: see RaiseEpoch. A notification waits for the commit.
	const notify = `SELECT coalesce((SELECT epoch FROM pools WHERE pool = $2), $3) FROM pg_notify($1, $2)`
	var epoch int64
	if err := tx.QueryRow(ctx, notify, journalChannel, pool, FirstEpoch).Scan(&epoch); err != nil {
		return fmt.Errorf("notify readers of the journal: %w", err)
	}
	if epoch != batch.Epoch {
		return fmt.Errorf("the batch was read in epoch %d, the log is in epoch %d: %w", batch.Epoch, epoch, ErrFenced)
	}
	return nil
}

// ReadEvents returns up to limit events of a pool's journal after a seq, in order, with their payloads decoded.
func ReadEvents(ctx context.Context, db Querier, pool string, after int64, limit int) ([]Envelope, error) {
	// Where events are dense, as they should be, an upper bound costs nothing, and Postgres looks into no part beyond it.
	found, err := readEvents(ctx, db, pool, after, after+int64(limit), limit)
	if err != nil || len(found) > 0 {
		return found, err
	}
	return readEvents(ctx, db, pool, after, math.MaxInt64, limit) // the journal's end; or a hole, which must be seen
}

func readEvents(ctx context.Context, db Querier, pool string, after, upTo int64, limit int) ([]Envelope, error) {
	query := `SELECT ` + strings.Join(eventColumns, ", ") + ` FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`
	rows, err := db.Query(ctx, query, pool, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Envelope, err error) {
		var id pgtype.UUID
		err = row.Scan(&e.Pool, &e.Seq, &id, (*string)(&e.Type), &e.SKU, &e.HoldID, (*[]byte)(&e.Payload), (*[]byte)(&e.Metadata), &e.At)
		e.EventID = id.Bytes
		e.decoded, e.decodeErr = Decode(e.Type, e.Payload)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return found, nil
}

// AddTo adds the journal of a pool to the router, and returns its line.
func (j *Journal) AddTo(router *message.Router, config StreamSubscriberConfig) *Line {
	subscriber := NewStreamSubscriber(config)
	router.AddConsumerHandler("journal", config.Pool.StreamKey(), subscriber, j.Handle).AddMiddleware(ReportFault)
	return subscriber.Line
}
