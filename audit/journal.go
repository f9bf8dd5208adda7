package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
)

// journalEvent is what the fold needs of an event. Reading whole envelopes and decoding them would take most of a full
// audit's time, so Postgres picks the fields.
type journalEvent struct {
	seq   int64
	kind  events.Type
	sku   string
	hold  string
	qty   int64 // units; of an adjustment, its delta
	user  string
	ttlMs int64
	ref   string // idempotency key, payment reference or reason: what the type has of the three
	atMs  int64
	fault string // why this build cannot read it
}

// pageEvents is how many events are read at once.
const pageEvents = 10_000

// picked reports whether selectRecords picks the right fields of a payload of this type and version. Everything else is
// decoded by the package events, which knows what has become of older versions.
func picked(kind events.Type, version string) bool {
	switch kind {
	case events.TypeStockAdjusted:
		return version == "1" || version == "2"
	case events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled:
		return version == "1"
	}
	return false
}

const selectRecords = `
	SELECT seq, type, coalesce(payload->>'v', '1'), coalesce(payload->>'sku', ''), coalesce(payload->>'hold_id', ''),
	       coalesce(payload->>CASE type WHEN 'STOCK_ADJUSTED' THEN 'delta' ELSE 'qty' END, ''),
	       coalesce(payload->>'user_id', ''),
	       CASE type WHEN 'HOLD_CREATED' THEN coalesce(payload->>'ttl_ms', '') ELSE '0' END,
	       coalesce(payload->>CASE type WHEN 'HOLD_CREATED' THEN 'idempotency_key' WHEN 'HOLD_CONFIRMED' THEN 'payment_ref' ELSE 'reason' END, ''),
	       at
	FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`

// readRecords returns up to a page of a pool's events after one seq and up to another.
func readRecords(ctx context.Context, conn *pgx.Conn, pool string, after, upTo int64) ([]journalEvent, error) {
	rows, err := conn.Query(ctx, selectRecords, pool, after, upTo, pageEvents)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	page := make([]journalEvent, 0, min(pageEvents, upTo-after))
	odd := map[int64]int{} // seq to place
	var r journalEvent
	var version, qty, ttl string
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&r.seq, (*string)(&r.kind), &version, &r.sku, &r.hold, &qty, &r.user, &ttl, &r.ref, &at}, func() error {
		r.atMs = at.UnixMilli()
		if r.fault = ""; !picked(r.kind, version) || !r.take(qty, ttl) {
			odd[r.seq], r.fault = len(page), "it is gone" // unless it is read below
		}
		page = append(page, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if len(odd) == 0 {
		return page, nil
	}
	found, err := events.ReadEvents(ctx, conn, pool, page[0].seq-1, len(page))
	for i := range found {
		if place, isOdd := odd[found[i].Seq]; isOdd {
			page[place] = decoded(&found[i])
		}
	}
	return page, err
}

// take reads the numbers, and reports whether the record is whole.
func (r *journalEvent) take(qty, ttl string) bool {
	var errs [2]error
	r.qty, errs[0] = strconv.ParseInt(qty, 10, 64)
	r.ttlMs, errs[1] = strconv.ParseInt(ttl, 10, 64)
	if errs[0] != nil || errs[1] != nil || r.sku == "" {
		return false
	}
	return r.kind == events.TypeStockAdjusted || r.hold != "" && r.qty > 0
}

// decoded is the record of an event that was read in the way in which everybody else reads it.
func decoded(e *events.Envelope) journalEvent {
	r := journalEvent{seq: e.Seq, kind: e.Type, sku: e.SKU, hold: e.HoldID, atMs: e.At.UnixMilli()}
	payload, err := e.Decode()
	if err != nil {
		r.fault = err.Error()
		return r
	}
	switch p := payload.(type) {
	case *events.StockAdjusted:
		r.kind, r.sku, r.qty, r.ref = p.Type(), p.SKU, p.Delta, p.Reason
	case *events.HoldCreated:
		r.kind, r.sku, r.hold, r.qty, r.user, r.ttlMs, r.ref = p.Type(), p.SKU, p.HoldID, p.Qty, p.UserID, p.TTLMs, p.IdempotencyKey
	case *events.HoldConfirmed:
		r.kind, r.sku, r.hold, r.qty, r.user, r.ref = p.Type(), p.SKU, p.HoldID, p.Qty, p.UserID, p.PaymentRef
	case *events.HoldCancelled:
		r.kind, r.sku, r.hold, r.qty, r.user, r.ref = p.Type(), p.SKU, p.HoldID, p.Qty, p.UserID, p.Reason
	default:
		r.fault = fmt.Sprintf("an event of type %s, which the audit does not know", e.Type)
	}
	return r
}

// readAhead sends the events after one seq and up to another, page by page, and closes the channel.
func readAhead(ctx context.Context, conn *pgx.Conn, pool string, after, upTo int64, pages chan<- []journalEvent) error {
	defer close(pages)
	for after < upTo {
		page, err := readRecords(ctx, conn, pool, after, upTo)
		if err != nil || len(page) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case pages <- page:
		}
		after = page[len(page)-1].seq
	}
	return nil
}

// journalScan brings a settled fold forward, to the exact seq at which something else was read.
type journalScan struct {
	conn *pgx.Conn
	pool string
	wait time.Duration // for events that are not in the journal yet
	fold *expected
	page []journalEvent
}

// errNotThere is returned when the journal does not come to a seq in time.
var errNotThere = errors.New("the journal has not come there")

// to applies events until the fold stands at a seq, which must not be behind it.
func (f *journalScan) to(ctx context.Context, seq int64) error {
	deadline := time.Now().Add(f.wait)
	for f.fold.seq < seq {
		for len(f.page) > 0 && f.fold.seq < seq {
			f.fold.apply(&f.page[0])
			f.page = f.page[1:]
		}
		if f.fold.seq >= seq {
			break
		}
		page, err := readRecords(ctx, f.conn, f.pool, f.fold.seq, f.fold.seq+pageEvents)
		if err != nil {
			return err
		}
		f.page = page
		if len(page) > 0 {
			continue
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: it ends at seq %d, and %d is needed", errNotThere, f.fold.seq, seq)
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return err
		}
	}
	return nil
}

// pollInterval is how soon the other side is looked at again that has not come up yet.
const pollInterval = 20 * time.Millisecond
