package journal

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// eventColumns are the columns of the table events, in the order in which they are
// written and read. The column recorded_at is missing, because Postgres fills it in.
var eventColumns = []string{"pool", "seq", "event_id", "type", "sku", "hold_id", "payload", "metadata", "at"}

// ReadEvents returns up to limit events of a pool's journal after a seq, in order, with
// their payloads decoded.
func ReadEvents(
	ctx context.Context, db postgres.Querier, pool string, after int64, limit int,
) ([]events.Envelope, error) {
	// Seqs have no gaps, so the limit implies an upper bound. With the bound, Postgres
	// reads no partition beyond it.
	found, err := readEvents(ctx, db, pool, after, after+int64(limit), limit)
	if err != nil || len(found) > 0 {
		return found, err
	}
	// The journal ends here, or it has a hole. The caller must see a hole, so look beyond
	// the bound.
	return readEvents(ctx, db, pool, after, math.MaxInt64, limit)
}

func readEvents(
	ctx context.Context, db postgres.Querier, pool string, after, upTo int64, limit int,
) ([]events.Envelope, error) {
	query := `SELECT ` + strings.Join(eventColumns, ", ") +
		` FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`
	rows, err := db.Query(ctx, query, pool, after, upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	found, err := pgx.CollectRows(rows, scanEvent)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return found, nil
}

func scanEvent(row pgx.CollectableRow) (e events.Envelope, err error) {
	var id pgtype.UUID
	err = row.Scan(
		&e.Pool, &e.Seq, &id, (*string)(&e.Type), &e.SKU, &e.HoldID,
		(*[]byte)(&e.Payload), (*[]byte)(&e.Metadata), &e.At,
	)
	e.EventID = id.Bytes
	e.Predecode()
	return e, err
}
