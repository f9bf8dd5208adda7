package events

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
)

// DetachedPart is a part that was taken out of the journal, as it was then.
type DetachedPart struct {
	Part
	Events     int64
	Digest     string // of its rows, whatever their order
	DetachedAt time.Time
}

// DetachedParts returns the parts that the journal lacks, in order.
func DetachedParts(ctx context.Context, db Querier) ([]DetachedPart, error) {
	rows, err := db.Query(ctx, `SELECT part, first_seq, last_seq, events, digest, detached_at FROM detached_parts ORDER BY first_seq`)
	if err != nil {
		return nil, fmt.Errorf("list detached parts: %w", err)
	}
	parts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d DetachedPart, err error) {
		return d, row.Scan(&d.Name, &d.First, &d.Last, &d.Events, &d.Digest, &d.DetachedAt)
	})
	if err != nil {
		return nil, fmt.Errorf("list detached parts: %w", err)
	}
	return parts, nil
}

// ErrPartNeeded is returned for a part that must stay: somebody has yet to read it, or it is not the oldest.
var ErrPartNeeded = errors.New("the part is still needed")

// Reader is somebody who reads a pool's log, and the last seq that needs no reading again.
type Reader struct {
	Name string
	Pool string
	Seq  int64
}

// String names the reader and where it stands.
func (r Reader) String() string {
	return fmt.Sprintf("%s, which is at %s", r.Name, Position{r.Pool, r.Seq})
}

// JournalReaders returns where everybody stands who reads the journal, and the journal itself. The named ones are among
// them whether or not they have begun.
func JournalReaders(ctx context.Context, db Querier, names ...string) ([]Reader, error) {
	const query = `
		WITH readers AS (
			SELECT projection, pool FROM checkpoints
			UNION
			SELECT name, pool FROM unnest($1::text[]) AS name, (SELECT pool FROM pools UNION SELECT pool FROM checkpoints) AS known
		)
		SELECT projection, pool, coalesce(seq, 0) FROM readers LEFT JOIN checkpoints USING (projection, pool) ORDER BY 1, 2`
	rows, err := db.Query(ctx, query, append([]string{JournalCheckpoint}, names...))
	if err != nil {
		return nil, fmt.Errorf("list the readers of the journal: %w", err)
	}
	readers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Reader])
	if err != nil {
		return nil, fmt.Errorf("list the readers of the journal: %w", err)
	}
	return readers, nil
}

// StreamReader returns the journal's consumer group as a reader: its Seq is right below the first event on the stream
// that it has not acknowledged, and the highest number there is where there is no such event.
func StreamReader(ctx context.Context, client redis.Cmdable, pool Pool) (Reader, error) {
	reader := Reader{Name: "consumer group " + ConsumerGroup, Pool: pool.Name(), Seq: math.MaxInt64}
	groups, err := streamGroups(ctx, client, pool.StreamKey())
	if err != nil {
		return reader, err
	}
	from := "-"
	for _, group := range groups {
		if group.name == ConsumerGroup {
			from = group.needs.String()
		}
	}
	for {
		const page = 100
		entries, err := client.XRangeN(ctx, pool.StreamKey(), from, "+", page).Result()
		if err != nil {
			return reader, fmt.Errorf("look at the stream: %w", err)
		}
		for _, entry := range entries {
			if seq, err := strconv.ParseInt(text(entry.Values[fieldSeq]), 10, 64); err == nil && seq >= 1 {
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

// NeededBy returns the readers that have not passed a part.
func (p Part) NeededBy(readers []Reader) []Reader {
	var needing []Reader
	for _, reader := range readers {
		if reader.Seq < p.Last {
			needing = append(needing, reader)
		}
	}
	return needing
}

// CheckDetachable returns ErrPartNeeded unless every reader has passed a part.
func CheckDetachable(part Part, readers []Reader) error {
	needing := part.NeededBy(readers)
	if len(needing) == 0 {
		return nil
	}
	names := make([]string, len(needing))
	for i, reader := range needing {
		names[i] = reader.String()
	}
	return fmt.Errorf("%w: %s ends at %d, and is needed by %s", ErrPartNeeded, part.Name, part.Last, strings.Join(names, "; "))
}

// DetachPart takes the oldest part out of the journal, and remembers what was in it. The part stays as a table of its
// own. It returns ErrPartNeeded unless all have passed it: the readers in the database, those named, and the given one,
// which is the stream's. The newest part always stays.
func DetachPart(ctx context.Context, conn *pgx.Conn, part Part, stream Reader, names ...string) (DetachedPart, error) {
	detached := DetachedPart{Part: part}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := lockParts(ctx, tx); err != nil {
			return err
		}
		parts, err := Parts(ctx, tx)
		if err != nil {
			return err
		}
		if len(parts) < 2 || parts[0] != part {
			return fmt.Errorf("%w: only the oldest part can be detached, and never the newest", ErrPartNeeded)
		}
		readers, err := JournalReaders(ctx, tx, names...)
		if err != nil {
			return err
		}
		if err := CheckDetachable(part, append(readers, stream)); err != nil {
			return err
		}
		if detached.Events, detached.Digest, err = digestPart(ctx, tx, part.Name); err != nil {
			return err
		}
		const remember = `INSERT INTO detached_parts (part, first_seq, last_seq, events, digest) VALUES ($1, $2, $3, $4, $5) RETURNING detached_at`
		row := tx.QueryRow(ctx, remember, part.Name, part.First, part.Last, detached.Events, detached.Digest)
		if err := row.Scan(&detached.DetachedAt); err != nil {
			return err
		}
		// Last, since it holds up whoever reads or writes the journal until this transaction ends.
		_, err = tx.Exec(ctx, `ALTER TABLE events DETACH PARTITION `+identifier(part.Name))
		return err
	})
	if fault := new(pgconn.PgError); errors.As(err, &fault) && fault.Code == lockNotAvailable {
		err = fmt.Errorf("somebody reads the journal in a transaction that goes on; try again later: %w", err)
	}
	if err != nil {
		return DetachedPart{}, fmt.Errorf("detach %s: %w", part.Name, err)
	}
	return detached, nil
}

const lockNotAvailable = "55P03" // Postgres's code for a lock that was not had in time

// digestPart counts a part's rows and adds up what each of them hashes to. Until the transaction ends, they cannot be
// changed.
func digestPart(ctx context.Context, tx pgx.Tx, name string) (events int64, digest string, err error) {
	query := `SELECT count(*), coalesce(sum(('x' || substr(md5(concat_ws('|', pool, seq, event_id, type, sku, hold_id, payload, metadata,
		extract(epoch FROM at), extract(epoch FROM recorded_at))), 1, 15))::bit(60)::bigint), 0)::text FROM ` + identifier(name)
	if _, err := tx.Exec(ctx, `LOCK TABLE `+identifier(name)+` IN SHARE MODE`); err != nil {
		return 0, "", err
	}
	if err := tx.QueryRow(ctx, query).Scan(&events, &digest); err != nil {
		return 0, "", fmt.Errorf("digest: %w", err)
	}
	return events, digest, nil
}
