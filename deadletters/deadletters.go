// Package deadletters stores the messages that could not be handled, in the table
// dead_letters, with everything needed to understand the failure. It imports only events.
//
// A letter is written in the same transaction that moves its source's checkpoint past the
// message, so a crash can neither lose the letter nor write it twice. Parking the same
// message again adds an attempt to its letter.
package deadletters

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Letter is one row of dead_letters: a message that its source could not handle, or a
// message that waits behind such a message because both have the same sequence key.
type Letter struct {
	ID     int64  // assigned by Postgres
	Source string // SourceJournal, SourceSaga, or the name of a projection
	// MessageKey identifies the message within its source and pool: an event id, or a
	// stream id if the entry is no event.
	MessageKey string
	// SequenceKey is shared by the messages that must be handled in order, such as those
	// of one hold; "" if the message may be handled in any order.
	SequenceKey string
	Pool        string
	Seq         int64 // 0 if the message has no seq in Redis's log
	EventType   events.Type
	Raw         []byte            // the message exactly as it was received
	Metadata    map[string]string // facts about the message that Raw lacks, such as its stream id
	Error       string
	Stack       string // the stack trace if the handler panicked
	Attempts    int
	FirstFailed time.Time
	LastFailed  time.Time
	Status      Status
}

// Status is the state of a letter.
type Status string

// A parked letter waits for an operator. Resolved and discarded letters remain as
// history.
const (
	StatusParked    Status = "parked"
	StatusResolved  Status = "resolved"
	StatusDiscarded Status = "discarded"
)

// Sources other than projections, which use their own names.
const (
	SourceJournal = "journal"
	SourceSaga    = "saga"
)

// Park writes the letters in the given transaction, in one statement.
func Park(ctx context.Context, tx pgx.Tx, letters ...Letter) error {
	messages := make([]*message.Message, 0, len(letters))
	for _, letter := range letters {
		msg, err := letter.message()
		if err != nil {
			return err
		}
		messages = append(messages, msg)
	}
	publisher, err := newPublisher(ctx, tx)
	if err != nil {
		return err
	}
	if err := publisher.Publish(Topic, messages...); err != nil {
		return fmt.Errorf("write dead letters: %w", err)
	}
	return publisher.Close()
}

// ParkEntries writes one letter for each stream entry that the journal could not read as
// an event.
func ParkEntries(ctx context.Context, tx pgx.Tx, entries []events.Entry) error {
	letters := make([]Letter, len(entries))
	for i, entry := range entries {
		letters[i] = Letter{
			Source:     SourceJournal,
			MessageKey: entry.StreamID,
			Pool:       entry.Envelope.Pool,
			Seq:        entry.Envelope.Seq,
			EventType:  entry.Envelope.Type,
			Raw:        entry.Raw(),
			Metadata:   map[string]string{"stream_id": entry.StreamID},
			Error:      entry.Err.Error(),
		}
	}
	return Park(ctx, tx, letters...)
}

// ForeignEntries returns the stream ids, of those given, whose entries the journal parked
// as foreign. No command wrote a foreign entry, so its letter has no seq, even if the
// entry has a field of that name.
func ForeignEntries(
	ctx context.Context, db postgres.Querier, pool string, streamIDs []string,
) (map[string]bool, error) {
	const query = `
		SELECT message_key FROM dead_letters
		WHERE source = $1 AND pool = $2 AND message_key = ANY ($3) AND seq IS NULL`
	return querySet(ctx, db, query, SourceJournal, pool, streamIDs)
}

// ParkedKeys returns the sequence keys that have a parked letter of the given source and
// pool.
func ParkedKeys(ctx context.Context, db postgres.Querier, source, pool string) (map[string]bool, error) {
	const query = `
		SELECT DISTINCT sequence_key FROM dead_letters
		WHERE source = $1 AND pool = $2 AND status = 'parked' AND sequence_key <> ''`
	return querySet(ctx, db, query, source, pool)
}

// querySet returns the results of a query with one text column as a set.
func querySet(ctx context.Context, db postgres.Querier, query string, args ...any) (map[string]bool, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	set := map[string]bool{}
	var value string
	_, err = pgx.ForEachRow(rows, []any{&value}, func() error {
		set[value] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return set, nil
}
