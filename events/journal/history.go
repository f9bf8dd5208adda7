package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Recorded is an event of the journal.
type Recorded struct {
	events.Envelope
	RecordedAt time.Time // when it was appended, by Postgres's clock
}

// Metadata keys that tell why an event happened.
const (
	MetadataCausationID   = "causation_id"   // the command or event that directly caused it
	MetadataCorrelationID = "correlation_id" // the request at the start of the chain
)

// Causes returns the causation id and the correlation id from the metadata, each "" if it
// is missing.
func (r *Recorded) Causes() (causation, correlation string) {
	var metadata map[string]any // values of any type: another program may have written the entry
	if json.Unmarshal(r.Metadata, &metadata) != nil {
		return "", ""
	}
	return events.FieldText(metadata[MetadataCausationID]), events.FieldText(metadata[MetadataCorrelationID])
}

// HistoryQuery selects events of a pool's journal. A zero Type, SKU or HoldID matches
// every event.
type HistoryQuery struct {
	Pool   string
	After  int64 // only events with a higher seq
	Type   events.Type
	SKU    string
	HoldID string
	Limit  int // the most events on a page; must be above 0
}

// HistoryPage is one page of the events that match a query, in order.
type HistoryPage struct {
	Events []Recorded
	// Next is the After of the next page. That page follows this one without a gap or a
	// repeat.
	Next int64
	// More reports whether the next page can be read now. A page with More may have fewer
	// events than its limit, or none: the search for a rare type ends after
	// historyScanMax events.
	More bool
	End  int64 // the journal's last seq
}

// historyScanMax bounds how many events are searched for one page, so that a rare type
// does not cost a scan of the whole journal. Tests set it lower.
var historyScanMax int64 = 50_000

// ReadHistory returns one page of the events that match q. It fails with ErrDetached if
// the event right after q.After is in a detached partition, because continuing without it
// would silently skip events. Other errors are those of the connection.
func ReadHistory(ctx context.Context, db postgres.Querier, q HistoryQuery) (HistoryPage, error) {
	page, err := readHistory(ctx, db, q)
	if err != nil {
		return HistoryPage{}, fmt.Errorf("read history: %w", err)
	}
	return page, nil
}

// readHistory reads a page in these steps:
//
//  1. Read the first and the last seq of the journal.
//  2. Require that the event after q.After is attached, and limit the page to the seqs
//     before the next detached partition.
//  3. Limit the page to historyScanMax events.
//  4. Read one event more than q.Limit, which tells whether there is another page.
//  5. Read the first seq again: the oldest partition may have been detached meanwhile.
func readHistory(ctx context.Context, db postgres.Querier, q HistoryQuery) (HistoryPage, error) {
	first, end, err := bounds(ctx, db, q.Pool)
	page := HistoryPage{Next: q.After, End: end}
	if err != nil || q.After >= end {
		return page, err
	}
	if err := q.checkAttached(first); err != nil {
		return page, err
	}
	attached, err := q.attachedUntil(ctx, db, first, end)
	if err != nil {
		return page, err
	}
	if attached == q.After {
		return page, fmt.Errorf("%w: it has the events right after %s",
			ErrDetached, events.Position{Pool: q.Pool, Seq: q.After})
	}
	until, err := q.scanEnd(ctx, db, attached)
	if err != nil {
		return page, err
	}
	query, args := q.page(until)
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return page, err
	}
	page.Events, err = pgx.CollectRows(rows, scanRecorded)
	if err != nil {
		return page, err
	}
	if len(page.Events) > q.Limit {
		page.Events = page.Events[:q.Limit]
		page.Next = page.Events[q.Limit-1].Seq
		page.More = true
	} else {
		page.Next = until
		page.More = until < end
	}
	first, _, err = bounds(ctx, db, q.Pool)
	if err != nil {
		return page, err
	}
	return page, q.checkAttached(first)
}

// checkAttached returns ErrDetached if the journal begins after the event that follows
// q.After. A query from the beginning starts with the oldest partition that is attached.
func (q HistoryQuery) checkAttached(first int64) error {
	if q.After > 0 && (first == 0 || first > q.After+1) {
		oldest := events.Position{Pool: q.Pool, Seq: first}
		after := events.Position{Pool: q.Pool, Seq: q.After}
		return fmt.Errorf("%w: the first event is %s, but the query asks for events after %s",
			ErrDetached, oldest, after)
	}
	return nil
}

// CheckEnd returns ErrBeyondEnd if the query asks for the events after a seq that is
// beyond the journal's end.
func (q HistoryQuery) CheckEnd(end int64) error {
	if q.After <= end {
		return nil
	}
	return fmt.Errorf("%w: %s is after %s",
		ErrBeyondEnd, events.Position{Pool: q.Pool, Seq: q.After}, events.Position{Pool: q.Pool, Seq: end})
}

// bounds returns the first and the last seq of a pool's journal, or 0 and 0 if it is
// empty.
func bounds(ctx context.Context, db postgres.Querier, pool string) (first, end int64, err error) {
	const query = `
		SELECT coalesce((SELECT seq FROM events WHERE pool = $1 ORDER BY seq LIMIT 1), 0),
		       coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0)`
	err = db.QueryRow(ctx, query, pool, CheckpointName).Scan(&first, &end)
	return first, end, err
}

// attachedUntil returns the last seq before the next detached partition, or the journal's
// end. A page does not reach beyond it, because the next page could not tell that events
// are missing. A query for one hold ignores this limit, and shows those of its events
// that are attached.
func (q HistoryQuery) attachedUntil(
	ctx context.Context, db postgres.Querier, first, end int64,
) (seq int64, err error) {
	if q.HoldID != "" || first == 0 {
		return end, nil
	}
	const query = `
		SELECT coalesce(min(greatest(first_seq - 1, $1)), $3) FROM detached_parts
		WHERE pool = $4 AND first_seq > $2 AND first_seq <= $3 AND last_seq > $1`
	err = db.QueryRow(ctx, query, q.After, first, end, q.Pool).Scan(&seq)
	return seq, err
}

// condition returns the WHERE condition for everything but the type. It is written so
// that Postgres can use the indexes, none of which contains the type.
func (q HistoryQuery) condition(until int64) (condition string, args []any) {
	condition = "pool = $1 AND seq > $2 AND seq <= $3"
	args = []any{q.Pool, q.After, until}
	if q.SKU != "" {
		args = append(args, q.SKU)
		condition += fmt.Sprintf(` AND sku = $%d COLLATE "C"`, len(args))
	}
	if q.HoldID != "" {
		args = append(args, q.HoldID)
		condition += fmt.Sprintf(` AND hold_id <> '' AND hold_id = $%d COLLATE "C"`, len(args))
	}
	return condition, args
}

// page returns the SQL query for one event more than the limit, up to a seq.
func (q HistoryQuery) page(until int64) (query string, args []any) {
	condition, args := q.condition(until)
	if q.Type != "" {
		args = append(args, string(q.Type))
		condition += fmt.Sprintf(" AND type = $%d", len(args))
	}
	args = append(args, q.Limit+1)
	query = fmt.Sprintf(`SELECT %s, recorded_at FROM events WHERE %s ORDER BY seq LIMIT $%d`,
		strings.Join(eventColumns, ", "), condition, len(args))
	return query, args
}

// scanEnd returns the seq at which the search for a page ends, so that it looks at no
// more than historyScanMax events.
func (q HistoryQuery) scanEnd(ctx context.Context, db postgres.Querier, end int64) (int64, error) {
	switch {
	case q.Type == "":
		return end, nil // every event that Postgres looks at matches, so the limit bounds the search
	case q.SKU == "" && q.HoldID == "":
		return min(end, q.After+historyScanMax), nil
	}
	condition, args := q.condition(end)
	query := fmt.Sprintf(`SELECT seq FROM events WHERE %s ORDER BY seq OFFSET $%d LIMIT 1`,
		condition, len(args)+1)
	args = append(args, historyScanMax-1)
	var seq int64
	err := db.QueryRow(ctx, query, args...).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return end, nil
	}
	return seq, err
}

func scanRecorded(row pgx.CollectableRow) (r Recorded, err error) {
	var id pgtype.UUID
	err = row.Scan(
		&r.Pool, &r.Seq, &id, (*string)(&r.Type), &r.SKU, &r.HoldID,
		(*[]byte)(&r.Payload), (*[]byte)(&r.Metadata), &r.At, &r.RecordedAt,
	)
	r.EventID = id.Bytes
	return r, err
}

// KnownHolds returns those of the given holds of which the journal has an event.
func KnownHolds(
	ctx context.Context, db postgres.Querier, pool string, ids []string,
) (map[string]bool, error) {
	const query = `
		SELECT id FROM unnest($2::text[]) AS id WHERE EXISTS (
			SELECT FROM events WHERE pool = $1 AND hold_id <> '' AND hold_id = id COLLATE "C")`
	const atOnce = 10_000
	known := map[string]bool{}
	for some := range slices.Chunk(ids, atOnce) {
		rows, err := db.Query(ctx, query, pool, some)
		if err != nil {
			return nil, fmt.Errorf("look for holds in the journal: %w", err)
		}
		var id string
		_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
			known[id] = true
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look for holds in the journal: %w", err)
		}
	}
	return known, nil
}
