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
// more attempt, and is parked again if somebody had thought it resolved.
func (schemaAdapter) InsertQuery(_ string, msgs message.Messages) (watermillsql.Query, error) {
	const columns = 10
	var values []string
	var args []any
	for _, msg := range msgs {
		places := make([]string, columns)
		for i := range places {
			places[i] = "$" + strconv.Itoa(len(args)+i+1)
		}
		values = append(values, "("+strings.Join(places, ",")+",1,'parked')")
		seq, err := strconv.ParseInt(msg.Metadata.Get(metaSeq), 10, 64)
		if err != nil {
			return watermillsql.Query{}, fmt.Errorf("seq of a dead letter: %w", err)
		}
		args = append(args, msg.Metadata.Get(metaSource), storable(msg.UUID), storable(msg.Metadata.Get(metaSequenceKey)), msg.Metadata.Get(metaPool),
			sql.NullInt64{Int64: seq, Valid: seq > 0}, storable(msg.Metadata.Get(metaEventType)), append([]byte{}, msg.Payload...),
			msg.Metadata.Get(metaMetadata), storable(msg.Metadata.Get(metaError)), storable(msg.Metadata.Get(metaStack)))
	}
	return watermillsql.Query{Query: insertInto + strings.Join(values, ",") + onRepeat, Args: args}, nil
}

const insertInto = `
	INSERT INTO dead_letters AS d
	    (source, message_key, sequence_key, pool, seq, event_type, raw, metadata, error, stack, attempts, status)
	VALUES `

const onRepeat = `
	ON CONFLICT (source, message_key) DO UPDATE SET
	    attempts = d.attempts + 1, last_failed_at = now(), error = excluded.error, stack = excluded.stack, status = 'parked'`

// storable drops what a text in Postgres cannot hold.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}
