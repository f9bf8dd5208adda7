// Package deadletters keeps the messages that could not be handled, with everything needed to understand them. It
// imports only events.
//
// A letter is written in the transaction that moves its source's checkpoint past the message, so that it is neither
// lost nor written twice; writing the same letter again counts an attempt.
package deadletters

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Letter is a message that its source could not handle, or one that waits behind such a message.
type Letter struct {
	ID     int64  // the store's own
	Source string // SourceJournal, a projection's name, or SourceSaga
	// MessageKey makes the message one within its source: an event id, or a stream id where there is no event.
	MessageKey string
	// SequenceKey names the messages that must keep their order; "" for none.
	SequenceKey string
	Pool        string
	Seq         int64 // 0 for what has no place in the log
	EventType   events.Type
	Raw         []byte            // exactly what was received
	Metadata    map[string]string // what is known beside it
	Error       string
	Stack       string // of a panic
	Attempts    int
	FirstFailed time.Time
	LastFailed  time.Time
	Status      Status
}

// Status says what has become of a letter.
type Status string

// A parked letter waits for somebody; the other two are history.
const (
	StatusParked    Status = "parked"
	StatusResolved  Status = "resolved"
	StatusDiscarded Status = "discarded"
)

// Sources that are not projections.
const (
	SourceJournal = "journal"
	SourceSaga    = "saga"
)

// Topic is the Watermill topic whose table is dead_letters.
const Topic = "dead_letters"

// Names under which a message carries a letter's fields.
const (
	metaSource      = "source"
	metaSequenceKey = "sequence_key"
	metaPool        = "pool"
	metaSeq         = "seq"
	metaEventType   = "event_type"
	metaError       = "error"
	metaStack       = "stack"
	metaMetadata    = "metadata"
)

// message returns the letter in the form in which it is published to Topic.
func (l Letter) message() (*message.Message, error) {
	metadata, err := json.Marshal(l.Metadata)
	if err != nil {
		return nil, fmt.Errorf("encode metadata of a dead letter: %w", err)
	}
	msg := message.NewMessage(l.MessageKey, l.Raw)
	msg.Metadata = message.Metadata{
		metaSource: l.Source, metaSequenceKey: l.SequenceKey, metaPool: l.Pool, metaSeq: strconv.FormatInt(l.Seq, 10),
		metaEventType: string(l.EventType), metaError: l.Error, metaStack: l.Stack, metaMetadata: string(metadata),
	}
	return msg, nil
}

// Park writes letters in the given transaction.
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

// ParkEntries writes letters for entries of the stream that are not events. It is what the journal parks with.
func ParkEntries(ctx context.Context, tx pgx.Tx, entries []events.Entry) error {
	letters := make([]Letter, len(entries))
	for i, entry := range entries {
		letters[i] = Letter{
			Source: SourceJournal, MessageKey: entry.StreamID, SequenceKey: "", Pool: entry.Envelope.Pool,
			Seq: entry.Envelope.Seq, EventType: entry.Envelope.Type, Raw: entry.Raw(),
			Metadata: map[string]string{"stream_id": entry.StreamID}, Error: entry.Err.Error(),
		}
	}
	return Park(ctx, tx, letters...)
}

// Strangers returns which of some entries of a pool's stream the journal has set aside because no command wrote them.
func Strangers(ctx context.Context, db postgres.Querier, pool string, streamIDs []string) (map[string]bool, error) {
	const query = `SELECT message_key FROM dead_letters WHERE source = $1 AND pool = $2 AND message_key = ANY ($3) AND seq IS NULL`
	return texts(ctx, db, query, SourceJournal, pool, streamIDs)
}

// ParkedKeys returns the sequence keys of a source that have a parked letter in a pool.
func ParkedKeys(ctx context.Context, db postgres.Querier, source, pool string) (map[string]bool, error) {
	const query = `
		SELECT DISTINCT sequence_key FROM dead_letters
		WHERE source = $1 AND pool = $2 AND status = 'parked' AND sequence_key <> ''`
	return texts(ctx, db, query, source, pool)
}

// texts returns the one column of a query of dead letters, as a set.
func texts(ctx context.Context, db postgres.Querier, query string, args ...any) (map[string]bool, error) {
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	found := map[string]bool{}
	var text string
	_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
		found[text] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read dead letters: %w", err)
	}
	return found, nil
}
