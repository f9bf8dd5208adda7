package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// Recorded is an event as the journal keeps it.
type Recorded struct {
	events.Envelope
	RecordedAt time.Time // Postgres's clock, when the journal took it
}

// Metadata that says why an event happened.
const (
	MetadataCausationID   = "causation_id"   // what made it happen
	MetadataCorrelationID = "correlation_id" // the request that began it all
)

// Causes returns what the metadata says of why the event happened, "" for what nobody said.
func (r *Recorded) Causes() (causation, correlation string) {
	var metadata map[string]any // an entry from elsewhere may hold anything under these names
	if json.Unmarshal(r.Metadata, &metadata) != nil {
		return "", ""
	}
	return events.FieldText(metadata[MetadataCausationID]), events.FieldText(metadata[MetadataCorrelationID])
}

// HistoryQuery asks for a part of a pool's journal, in order. Zero values do not narrow it.
type HistoryQuery struct {
	Pool   string
	After  int64 // events with a higher seq only
	Type   events.Type
	SKU    string
	HoldID string
	Limit  int // at most so many events; must be above 0
}

// HistoryPage is what a query came to.
type HistoryPage struct {
	Events []Recorded
	// Next is the seq to go on after: the same query with it continues where this page ends, without a gap or a repeat.
	Next int64
	// More says that there is more to be had now. A page may have fewer events than its limit, even none, and More:
	// a look for a type among many others ends after historyScanMax of them.
	More bool
	End  int64 // the journal's last seq
}

// historyScanMax bounds how many events are looked at for a page, so that a rare type costs no walk through a journal
// of years. Tests set it lower.
var historyScanMax int64 = 50_000

// ReadHistory returns a page of the journal as it is now. It fails with ErrDetached after an event whose successor was
// detached with an old part, since going on without it would skip events, and with the errors of the connection.
func ReadHistory(ctx context.Context, db postgres.Querier, q HistoryQuery) (HistoryPage, error) {
	page, err := readHistory(ctx, db, q)
	if err != nil {
		return HistoryPage{}, fmt.Errorf("read history: %w", err)
	}
	return page, nil
}

func readHistory(ctx context.Context, db postgres.Querier, q HistoryQuery) (HistoryPage, error) {
	first, end, err := bounds(ctx, db, q.Pool)
	page := HistoryPage{Next: q.After, End: end}
	switch {
	case err != nil:
		return page, err
	case q.After >= end:
		return page, nil
	}
	if err := q.checkAttached(first); err != nil {
		return page, err
	}
	whole, err := q.attachedUntil(ctx, db, first, end)
	switch {
	case err != nil:
		return page, err
	case whole == q.After: // which is above 0, as whole is
		return page, fmt.Errorf("%w: it has what comes right after %s", ErrDetached, events.Position{Pool: q.Pool, Seq: q.After})
	}
	until, err := q.scanEnd(ctx, db, whole)
	if err != nil {
		return page, err
	}
	query, args := q.page(until)
	rows, err := db.Query(ctx, query, args...)
	if err != nil {
		return page, err
	}
	if page.Events, err = pgx.CollectRows(rows, scanRecorded); err != nil {
		return page, err
	}
	if page.Next, page.More = until, until < end; len(page.Events) > q.Limit {
		page.Events = page.Events[:q.Limit]
		page.Next, page.More = page.Events[q.Limit-1].Seq, true
	}
	// Again, since the oldest part may have been detached between these statements.
	if first, _, err = bounds(ctx, db, q.Pool); err != nil {
		return page, err
	}
	return page, q.checkAttached(first)
}

// checkAttached returns ErrDetached where the journal's first event comes behind the next one that is wanted.
func (q HistoryQuery) checkAttached(first int64) error {
	if q.After > 0 && (first == 0 || first > q.After+1) {
		return fmt.Errorf("%w: the first event is %s, and what comes after %s is wanted", ErrDetached, events.Position{Pool: q.Pool, Seq: first}, events.Position{Pool: q.Pool, Seq: q.After})
	}
	return nil
}

// bounds returns the first and the last seq of a pool's journal, 0 and 0 for an empty one.
func bounds(ctx context.Context, db postgres.Querier, pool string) (first, end int64, err error) {
	const query = `
		SELECT coalesce((SELECT seq FROM events WHERE pool = $1 ORDER BY seq LIMIT 1), 0),
		       coalesce((SELECT seq FROM checkpoints WHERE projection = $2 AND pool = $1), 0)`
	err = db.QueryRow(ctx, query, pool, CheckpointName).Scan(&first, &end)
	return first, end, err
}

// attachedUntil is the seq before the next part that is detached from between others, or the journal's end: a page does not
// go on behind it, where the next one would not know what it missed. The history of a hold is what is attached of it.
func (q HistoryQuery) attachedUntil(ctx context.Context, db postgres.Querier, first, end int64) (seq int64, err error) {
	if q.HoldID != "" || first == 0 {
		return end, nil
	}
	const query = `SELECT coalesce(min(greatest(first_seq - 1, $1)), $3) FROM detached_parts WHERE first_seq > $2 AND first_seq <= $3 AND last_seq > $1`
	err = db.QueryRow(ctx, query, q.After, first, end).Scan(&seq)
	return seq, err
}

// condition is the condition that the indexes answer, in their words: it makes no use of the type.
func (q HistoryQuery) condition(until int64) (condition string, args []any) {
	condition, args = "pool = $1 AND seq > $2 AND seq <= $3", []any{q.Pool, q.After, until}
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

// page is the query for the events up to a seq, and for one more than the limit, which tells whether there is one.
func (q HistoryQuery) page(until int64) (query string, args []any) {
	where, args := q.condition(until)
	if q.Type != "" {
		args = append(args, string(q.Type))
		where += fmt.Sprintf(" AND type = $%d", len(args))
	}
	args = append(args, q.Limit+1)
	return fmt.Sprintf(`SELECT %s, recorded_at FROM events WHERE %s ORDER BY seq LIMIT $%d`, strings.Join(eventColumns, ", "), where, len(args)), args
}

// scanEnd is the seq up to which a page looks.
func (q HistoryQuery) scanEnd(ctx context.Context, db postgres.Querier, end int64) (int64, error) {
	switch {
	case q.Type == "":
		return end, nil // every event that is looked at is one that was asked for
	case q.SKU == "" && q.HoldID == "":
		return min(end, q.After+historyScanMax), nil
	}
	where, args := q.condition(end)
	query := fmt.Sprintf(`SELECT seq FROM events WHERE %s ORDER BY seq OFFSET $%d LIMIT 1`, where, len(args)+1)
	var seq int64
	err := db.QueryRow(ctx, query, append(args, historyScanMax-1)...).Scan(&seq)
	if errors.Is(err, pgx.ErrNoRows) {
		return end, nil
	}
	return seq, err
}

func scanRecorded(row pgx.CollectableRow) (r Recorded, err error) {
	var id pgtype.UUID
	err = row.Scan(&r.Pool, &r.Seq, &id, (*string)(&r.Type), &r.SKU, &r.HoldID, (*[]byte)(&r.Payload), (*[]byte)(&r.Metadata), &r.At, &r.RecordedAt)
	r.EventID = id.Bytes
	return r, err
}
