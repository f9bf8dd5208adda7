package journal

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/postgres"
)

// ReaderPosition is a reader of a pool's log, and the last seq that it does not need
// again.
type ReaderPosition struct {
	Name string
	Pool string
	Seq  int64
}

// String returns the reader's name and position, for use in a sentence.
func (r ReaderPosition) String() string {
	return fmt.Sprintf("%s, which is at %s", r.Name, events.Position{Pool: r.Pool, Seq: r.Seq})
}

// ReaderPositions returns the position of every reader that has a checkpoint, the
// journal's own included. The named readers are returned even if they have not started.
func ReaderPositions(ctx context.Context, db postgres.Querier, names ...string) ([]ReaderPosition, error) {
	const query = `
		WITH readers AS (
			SELECT projection, pool FROM checkpoints
			UNION
			SELECT name, pool FROM unnest($1::text[]) AS name, (SELECT pool FROM pools UNION SELECT pool FROM checkpoints) AS known
		)
		SELECT projection, pool, coalesce(seq, 0) FROM readers LEFT JOIN checkpoints USING (projection, pool) ORDER BY 1, 2`
	rows, err := db.Query(ctx, query, append([]string{CheckpointName}, names...))
	if err != nil {
		return nil, fmt.Errorf("list the readers of the journal: %w", err)
	}
	readers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ReaderPosition])
	if err != nil {
		return nil, fmt.Errorf("list the readers of the journal: %w", err)
	}
	return readers, nil
}

// GroupPosition returns the position of the journal's consumer group: the seq before the
// first event on the stream that the group has not acknowledged. It is math.MaxInt64 if
// there is no such event.
func GroupPosition(ctx context.Context, client redis.Cmdable, pool events.Pool) (ReaderPosition, error) {
	reader := ReaderPosition{
		Name: "consumer group " + events.ConsumerGroup,
		Pool: pool.Name(),
		Seq:  math.MaxInt64,
	}
	groups, err := stream.Groups(ctx, client, pool.StreamKey())
	if err != nil {
		return reader, err
	}
	from := "-"
	for _, group := range groups {
		if group.Name == events.ConsumerGroup {
			from = group.Needs.String()
		}
	}
	for {
		const page = 100
		entries, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", page).Result()
		if err != nil {
			return reader, fmt.Errorf("read the stream: %w", err)
		}
		for _, entry := range entries {
			if seq := events.EntrySeq(entry.Values); seq > 0 {
				reader.Seq = seq - 1
				return reader, nil
			}
		}
		if len(entries) < page {
			return reader, nil
		}
		from = "(" + entries[len(entries)-1].ID
	}
}
