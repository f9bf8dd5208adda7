package audit

import (
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// journal is a journal without anything else.
type journal struct {
	t    *testing.T
	ctx  context.Context
	conn *pgx.Conn
	seq  int64
}

func newJournal(t *testing.T) *journal {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return &journal{t: t, ctx: ctx, conn: testenv.Connect(t, testenv.ParseURL(t, testenv.Schema(t)))}
}

// append adds an event with any payload.
func (j *journal) append(kind events.Type, payload string) {
	j.t.Helper()
	j.seq++
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $4 FROM (SELECT $3::jsonb) AS given (p)`
	if _, err := j.conn.Exec(j.ctx, query, j.seq, string(kind), payload, time.UnixMilli(1764000000000+j.seq)); err != nil {
		j.t.Fatal(err)
	}
}

func (j *journal) read() []journalEvent {
	j.t.Helper()
	page, err := readRecords(j.ctx, j.conn, "main", 0, j.seq)
	if err != nil || int64(len(page)) != j.seq {
		j.t.Fatalf("got %d records (%v), want %d", len(page), err, j.seq)
	}
	return page
}

// TestRecordsAreWhatEventsAre reads every type in every way in which it can be written, and holds that what Postgres
// picks is what the package events decodes.
func TestRecordsAreWhatEventsAre(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	for _, event := range []events.Event{
		&events.StockAdjusted{SKU: "shirt", Delta: -7, Reason: "broken", IdempotencyKey: "k"},
		&events.HoldCreated{HoldID: "h", SKU: "shirt", Qty: 2, UserID: "ann", TTLMs: 1000, IdempotencyKey: "k"},
		&events.HoldConfirmed{HoldID: "h", SKU: "shirt", Qty: 2, UserID: "ann", PaymentRef: "p"},
		&events.HoldCancelled{HoldID: "h", SKU: "shirt", Qty: 2, UserID: "ann", Reason: "requested"},
	} {
		payload, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		j.append(event.Type(), string(payload))
	}
	j.append(events.TypeStockAdjusted, `{"sku":"shirt","delta":3,"reason":"of version 1"}`)
	j.append(events.TypeHoldCreated, `{"hold_id":"h","sku":"shirt","qty":2e0,"user_id":"a \"b\" \\ é","ttl_ms":1000,"idempotency_key":"\u00e9"}`)
	found, err := events.ReadEvents(j.ctx, j.conn, "main", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range j.read() {
		if want := decoded(&found[i]); want.fault != "" || !reflect.DeepEqual(r, want) {
			t.Errorf("%s: got %+v, want %+v", found[i].Payload, r, want)
		}
	}
}

// TestRecordsThatCannotBeRead holds that what others park is a fault here, too, and that its neighbours are read.
func TestRecordsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	j.append(events.TypeStockAdjusted, `{"sku":"shirt","delta":3,"reason":"delivery"}`)
	j.append(events.TypeStockAdjusted, `{"v":9,"sku":"shirt","delta":3,"reason":"of a newer build"}`)
	j.append("SHELF_MOVED", `{"sku":"shirt"}`)
	j.append(events.TypeHoldCreated, `{"hold_id":"h","sku":"shirt","qty":0}`)
	j.append(events.TypeHoldCreated, `{"hold_id":"h","sku":"shirt","qty":"many","ttl_ms":1}`)
	j.append(events.TypeHoldConfirmed, `null`)
	j.append(events.TypeHoldCancelled, `{"hold_id":"h","sku":"shirt","qty":1}`)
	f := newExpected(true, func(Difference) {})
	for i, r := range j.read() {
		if odd := i > 0 && i < 6; (r.fault != "") != odd {
			t.Errorf("seq %d: got %+v; it can be read: %t", r.seq, r, !odd)
		}
		f.apply(&r)
	}
	if f.unreadable != 5 || f.seq != 7 {
		t.Errorf("got %d unreadable events up to seq %d, want 5 up to 7", f.unreadable, f.seq)
	}
}

// TestLatestVersionsArePicked fails when a type gains a version: look at whether selectRecords picks its fields, and say
// so in picked.
func TestLatestVersionsArePicked(t *testing.T) {
	t.Parallel()
	for _, kind := range events.Types() {
		if version := strconv.Itoa(events.LatestVersion(kind)); !picked(kind, version) {
			t.Errorf("%s of version %s is decoded one by one: does selectRecords pick its fields?", kind, version)
		}
	}
}
