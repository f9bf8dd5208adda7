package deadletters

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
)

// Topic is the Watermill topic of dead letters. Messages published to it become rows of
// the table dead_letters.
const Topic = "dead_letters"

// Metadata keys of a message of Topic. The message's UUID is the letter's MessageKey and
// its payload is Raw.
const (
	metaSource      = "source"
	metaSequenceKey = "sequence_key"
	metaPool        = "pool"
	metaSeq         = "seq"
	metaEventType   = "event_type"
	metaError       = "error"
	metaStack       = "stack"
	metaMetadata    = "metadata" // the letter's own metadata, as a JSON object
)

// message returns the letter as a message of Topic.
func (l Letter) message() (*message.Message, error) {
	metadata, err := json.Marshal(l.Metadata)
	if err != nil {
		return nil, fmt.Errorf("encode metadata of a dead letter: %w", err)
	}
	msg := message.NewMessage(l.MessageKey, l.Raw)
	msg.Metadata = message.Metadata{
		metaSource:      l.Source,
		metaSequenceKey: l.SequenceKey,
		metaPool:        l.Pool,
		metaSeq:         strconv.FormatInt(l.Seq, 10),
		metaEventType:   string(l.EventType),
		metaError:       l.Error,
		metaStack:       l.Stack,
		metaMetadata:    string(metadata),
	}
	return msg, nil
}

// newPublisher returns a watermill-sql publisher that inserts letters in the given
// transaction.
func newPublisher(ctx context.Context, tx pgx.Tx) (*watermillsql.Publisher, error) {
	publisher, err := watermillsql.NewPublisher(
		txExecutor{ctx: ctx, tx: tx},
		watermillsql.PublisherConfig{SchemaAdapter: letterSchema{}},
		watermill.NopLogger{},
	)
	if err != nil {
		return nil, fmt.Errorf("create the publisher of dead letters: %w", err)
	}
	return publisher, nil
}

// txExecutor runs the publisher's statements in a pgx transaction. It is needed because
// watermill-sql v3 has no adapter for pgx, and because its Publish takes no context. A
// publisher calls only ExecContext; the methods of the embedded interface, which is nil,
// are never called.
type txExecutor struct {
	watermillsql.ContextExecutor
	ctx context.Context //nolint:containedctx // of the one call of Park that the executor serves
	tx  pgx.Tx
}

// ExecContext runs the statement with the context of Park. Its own argument is always
// context.Background, with which the statement could outlive the caller's deadline.
func (e txExecutor) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := e.tx.Exec(e.ctx, query, args...)
	return driver.RowsAffected(tag.RowsAffected()), err
}

// letterSchema maps a message of Topic to a row of dead_letters. It replaces the one
// query that publishing uses; the rest of the library's Postgres schema is for
// subscribers, and dead letters have none.
type letterSchema struct {
	watermillsql.DefaultPostgreSQLSchema
}

// InsertQuery returns one statement that inserts all messages. It passes each column as
// one array, because Postgres allows at most 65,535 parameters per statement.
func (letterSchema) InsertQuery(_ string, msgs message.Messages) (watermillsql.Query, error) {
	var sources, messageKeys, sequenceKeys, pools, eventTypes, metadata, faults, stacks []string
	var seqs []int64
	var raws [][]byte
	for _, msg := range msgs {
		seq, err := strconv.ParseInt(msg.Metadata.Get(metaSeq), 10, 64)
		if err != nil {
			return watermillsql.Query{}, fmt.Errorf("seq of a dead letter: %w", err)
		}
		sources = append(sources, msg.Metadata.Get(metaSource))
		messageKeys = append(messageKeys, storable(msg.UUID))
		sequenceKeys = append(sequenceKeys, storable(msg.Metadata.Get(metaSequenceKey)))
		pools = append(pools, msg.Metadata.Get(metaPool))
		seqs = append(seqs, seq)
		eventTypes = append(eventTypes, storable(msg.Metadata.Get(metaEventType)))
		raws = append(raws, append([]byte{}, msg.Payload...)) // a nil payload would be NULL
		metadata = append(metadata, msg.Metadata.Get(metaMetadata))
		faults = append(faults, storable(msg.Metadata.Get(metaError)))
		stacks = append(stacks, storable(msg.Metadata.Get(metaStack)))
	}
	return watermillsql.Query{
		Query: insertLetters,
		Args: []any{
			sources,
			messageKeys,
			sequenceKeys,
			pools,
			seqs,
			eventTypes,
			raws,
			metadata,
			faults,
			stacks,
		},
	}, nil
}

// insertLetters inserts the letters in the order given. If a message already has a
// letter, the statement counts one more attempt, keeps the newest error, and parks the
// letter again even if it was resolved or discarded.
const insertLetters = `
	INSERT INTO dead_letters AS d
	    (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack, attempts, status)
	SELECT source, message_key, sequence_key, pool, CASE WHEN seq > 0 THEN seq END, event_type, raw, metadata, error, stack, 1, 'parked'
	FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::jsonb[], $9::text[], $10::text[])
	    WITH ORDINALITY AS l (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack, ordinal)
	ORDER BY ordinal
	ON CONFLICT (source, pool, message_key) DO UPDATE SET
	    attempts = d.attempts + 1, last_failed_at = now(), error = excluded.error, stack = excluded.stack, status = 'parked'`

// storable replaces invalid UTF-8 and removes NUL bytes, because a Postgres text can
// contain neither.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}
