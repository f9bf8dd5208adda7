package audit

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
)

// journalEvent has the fields of an event that the expected state needs. Postgres
// extracts them from the payload: to read and decode whole envelopes would take most of a
// full audit's time.
type journalEvent struct {
	seq       int64
	eventType events.Type
	sku       string
	hold      string
	qty       int64 // units; for an adjustment, its delta
	user      string
	ttlMs     int64
	ref       string // the idempotency key, payment reference or reason, depending on the type
	atMs      int64
	fault     string // why this build cannot decode the event; "" if it can
}

// pageEvents is how many events one query reads.
const pageEvents = 10_000

// selectCovers reports whether selectJournalEvents extracts the right fields for this
// type and version. Package events decodes all other events, and upcasts older versions.
func selectCovers(eventType events.Type, version string) bool {
	switch eventType {
	case events.TypeStockAdjusted:
		return version == "1" || version == "2"
	case events.TypeHoldCreated, events.TypeHoldConfirmed, events.TypeHoldCancelled:
		return version == "1"
	}
	return false
}

const selectJournalEvents = `
	SELECT seq, type, coalesce(payload->>'v', '1'), coalesce(payload->>'sku', ''), coalesce(payload->>'hold_id', ''),
	       coalesce(payload->>CASE type WHEN 'STOCK_ADJUSTED' THEN 'delta' ELSE 'qty' END, ''),
	       coalesce(payload->>'user_id', ''),
	       CASE type WHEN 'HOLD_CREATED' THEN coalesce(payload->>'ttl_ms', '') ELSE '0' END,
	       coalesce(payload->>CASE type
	           WHEN 'HOLD_CREATED' THEN 'idempotency_key'
	           WHEN 'HOLD_CONFIRMED' THEN 'payment_ref'
	           ELSE 'reason' END, ''),
	       at
	FROM events WHERE pool = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4`

// readJournalEvents returns the events of a pool with after < seq <= upTo, at most
// pageEvents of them.
func readJournalEvents(
	ctx context.Context, conn *pgx.Conn, pool string, after, upTo int64,
) ([]journalEvent, error) {
	rows, err := conn.Query(ctx, selectJournalEvents, pool, after, upTo, pageEvents)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	page := make([]journalEvent, 0, min(pageEvents, upTo-after))
	toDecode := map[int64]int{} // the index in page, by seq
	var event journalEvent
	var version, qty, ttl string
	var at time.Time
	columns := []any{
		&event.seq,
		(*string)(&event.eventType),
		&version,
		&event.sku,
		&event.hold,
		&qty,
		&event.user,
		&ttl,
		&event.ref,
		&at,
	}
	_, err = pgx.ForEachRow(rows, columns, func() error {
		event.atMs = at.UnixMilli()
		event.fault = ""
		if !selectCovers(event.eventType, version) || !event.parseNumbers(qty, ttl) {
			toDecode[event.seq] = len(page)
			event.fault = "the event was removed during the audit" // replaced below if it can still be read
		}
		page = append(page, event)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if len(toDecode) == 0 {
		return page, nil
	}
	envelopes, err := journal.ReadEvents(ctx, conn, pool, page[0].seq-1, len(page))
	for i := range envelopes {
		if index, listed := toDecode[envelopes[i].Seq]; listed {
			page[index] = decodeEnvelope(&envelopes[i])
		}
	}
	return page, err
}

// parseNumbers sets the numbers, and reports whether the event then has every field that
// its type requires.
func (e *journalEvent) parseNumbers(qty, ttl string) bool {
	var qtyErr, ttlErr error
	e.qty, qtyErr = strconv.ParseInt(qty, 10, 64)
	e.ttlMs, ttlErr = strconv.ParseInt(ttl, 10, 64)
	if qtyErr != nil || ttlErr != nil || e.sku == "" {
		return false
	}
	return e.eventType == events.TypeStockAdjusted || e.hold != "" && e.qty > 0
}

// decodeEnvelope returns the fields of an event decoded by package events, as projections
// decode it.
func decodeEnvelope(envelope *events.Envelope) journalEvent {
	e := journalEvent{
		seq:       envelope.Seq,
		eventType: envelope.Type,
		sku:       envelope.SKU,
		hold:      envelope.HoldID,
		atMs:      envelope.At.UnixMilli(),
	}
	payload, err := envelope.Decode()
	if err != nil {
		e.fault = err.Error()
		return e
	}
	e.eventType = payload.Type()
	switch p := payload.(type) {
	case *events.StockAdjusted:
		e.sku = p.SKU
		e.qty = p.Delta
		e.ref = p.Reason
	case *events.HoldCreated:
		e.sku = p.SKU
		e.hold = p.HoldID
		e.qty = p.Qty
		e.user = p.UserID
		e.ttlMs = p.TTLMs
		e.ref = p.IdempotencyKey
	case *events.HoldConfirmed:
		e.sku = p.SKU
		e.hold = p.HoldID
		e.qty = p.Qty
		e.user = p.UserID
		e.ref = p.PaymentRef
	case *events.HoldCancelled:
		e.sku = p.SKU
		e.hold = p.HoldID
		e.qty = p.Qty
		e.user = p.UserID
		e.ref = p.Reason
	default:
		e.eventType = envelope.Type
		e.fault = fmt.Sprintf("the audit does not know the event type %s", envelope.Type)
	}
	return e
}
