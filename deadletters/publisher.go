package deadletters

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
)

// newPublisher returns a Watermill publisher that writes to the table dead_letters within a transaction of pgx.
func newPublisher(ctx context.Context, tx pgx.Tx) (*watermillsql.Publisher, error) {
	publisher, err := watermillsql.NewPublisher(executor{ctx: ctx, tx: tx}, watermillsql.PublisherConfig{SchemaAdapter: schemaAdapter{}}, watermill.NopLogger{})
	if err != nil {
		return nil, fmt.Errorf("dead letter publisher: %w", err)
	}
	return publisher, nil
}

// executor lets watermill-sql write with a transaction of pgx. The publisher only ever executes; it does so with a
// context of its own, which this replaces by the one that the transaction lives under.
type executor struct {
	watermillsql.ContextExecutor
	ctx context.Context //nolint:containedctx // lives as long as one Publish
	tx  pgx.Tx
}

func (e executor) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	tag, err := e.tx.Exec(e.ctx, query, args...)
	return result(tag.RowsAffected()), err
}

// result is the part of sql.Result that Postgres has.
type result int64

func (r result) RowsAffected() (int64, error) { return int64(r), nil }

func (result) LastInsertId() (int64, error) { return 0, errors.New("not supported by Postgres") }

// schemaAdapter makes a Watermill topic of the table dead_letters. Only what publishing needs differs from the
// library's adapter for Postgres.
type schemaAdapter struct {
	watermillsql.DefaultPostgreSQLSchema
}

// InsertQuery returns the statement that stores the messages as letters. A message that is there already counts one
// more attempt, and is parked again if somebody had thought it resolved. Each column is one parameter, an array: Postgres
// takes 65535 parameters at most.
func (schemaAdapter) InsertQuery(_ string, msgs message.Messages) (watermillsql.Query, error) {
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
		raws = append(raws, append([]byte{}, msg.Payload...)) // never null
		metadata = append(metadata, msg.Metadata.Get(metaMetadata))
		faults = append(faults, storable(msg.Metadata.Get(metaError)))
		stacks = append(stacks, storable(msg.Metadata.Get(metaStack)))
	}
	return watermillsql.Query{
		Query: insertLetters,
		Args:  []any{sources, messageKeys, sequenceKeys, pools, seqs, eventTypes, raws, metadata, faults, stacks},
	}, nil
}

const insertLetters = `
	INSERT INTO dead_letters AS d
	    (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack, attempts, status)
	SELECT source, message_key, sequence_key, pool, CASE WHEN seq > 0 THEN seq END, event_type, raw, metadata, error, stack, 1, 'parked'
	FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], $8::jsonb[], $9::text[], $10::text[])
	    WITH ORDINALITY AS l (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack, place)
	ORDER BY place
	ON CONFLICT (source, message_key) DO UPDATE SET
	    attempts = d.attempts + 1, last_failed_at = now(), error = excluded.error, stack = excluded.stack, status = 'parked'`

// storable drops what a text in Postgres cannot hold.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}
