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
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/testenv"
)

// fixture is a journal in a schema of its own.
type fixture struct {
	t    *testing.T
	ctx  context.Context
	conn *pgx.Conn
	seq  int64 // of the last event
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return &fixture{
		t:    t,
		ctx:  ctx,
		conn: testenv.Connect(t, testenv.ParseURL(t, testenv.Schema(t))),
	}
}

// appendRaw appends an event with any type and payload to the journal.
func (f *fixture) appendRaw(eventType events.Type, payload string) {
	f.t.Helper()
	f.appendRawAt(time.UnixMilli(1764000000001+f.seq), eventType, payload)
}

// appendRawAt is appendRaw for an event with the given time.
func (f *fixture) appendRawAt(at time.Time, eventType events.Type, payload string) {
	f.t.Helper()
	f.seq++
	f.exec(`
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', $1, gen_random_uuid(), $2, coalesce(p->>'sku', ''), coalesce(p->>'hold_id', ''), p, '{}', $4
		FROM (SELECT $3::jsonb) AS given (p)`,
		f.seq, string(eventType), payload, at)
}

// append appends an event to the journal.
func (f *fixture) append(event events.Event) {
	f.t.Helper()
	payload, err := json.Marshal(event)
	if err != nil {
		f.t.Fatal(err)
	}
	f.appendRaw(event.Type(), string(payload))
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.conn.Exec(f.ctx, sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// readAll returns all events of the journal, as an audit reads them.
func (f *fixture) readAll() []journalEvent {
	f.t.Helper()
	page, err := readJournalEvents(f.ctx, f.conn, "main", 0, f.seq)
	if err != nil {
		f.t.Fatal(err)
	}
	if int64(len(page)) != f.seq {
		f.t.Fatalf("got %d events, want %d", len(page), f.seq)
	}
	return page
}

// TestFieldsFromPostgresMatchDecodedEvents checks, for every event type and spelling of a
// payload, that the fields which Postgres extracts are those that package events decodes.
func TestFieldsFromPostgresMatchDecodedEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, event := range []events.Event{
		&events.StockAdjusted{
			SKU:            "shirt",
			Delta:          -7,
			Reason:         "broken",
			IdempotencyKey: "k",
		},
		&events.HoldCreated{
			HoldID:         "h",
			SKU:            "shirt",
			Qty:            2,
			UserID:         "ann",
			TTLMs:          1000,
			IdempotencyKey: "k",
		},
		&events.HoldConfirmed{
			HoldID:     "h",
			SKU:        "shirt",
			Qty:        2,
			UserID:     "ann",
			PaymentRef: "p",
		},
		&events.HoldCancelled{
			HoldID: "h",
			SKU:    "shirt",
			Qty:    2,
			UserID: "ann",
			Reason: "requested",
		},
	} {
		f.append(event)
	}
	f.appendRaw(events.TypeStockAdjusted, `{"sku":"shirt","delta":3,"reason":"of version 1"}`)
	f.appendRaw(events.TypeHoldCreated,
		`{"hold_id":"h","sku":"shirt","qty":2e0,"user_id":"a \"b\" \\ é","ttl_ms":1000,"idempotency_key":"\u00e9"}`)
	envelopes, err := journal.ReadEvents(f.ctx, f.conn, "main", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range f.readAll() {
		want := decodeEnvelope(&envelopes[i])
		if want.fault != "" {
			t.Errorf("%s: got fault %q, want an event that can be decoded", envelopes[i].Payload, want.fault)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", envelopes[i].Payload, got, want)
		}
	}
}

// TestUndecodableEventsAreCounted checks that events which projections park are counted
// as unreadable, and that their neighbours are applied.
func TestUndecodableEventsAreCounted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendRaw(events.TypeStockAdjusted, `{"sku":"shirt","delta":3,"reason":"delivery"}`)
	f.appendRaw(events.TypeStockAdjusted, `{"v":9,"sku":"shirt","delta":3,"reason":"of a newer build"}`)
	f.appendRaw("SHELF_MOVED", `{"sku":"shirt"}`)
	f.appendRaw(events.TypeHoldCreated, `{"hold_id":"h","sku":"shirt","qty":0}`)
	f.appendRaw(events.TypeHoldCreated, `{"hold_id":"h","sku":"shirt","qty":"many","ttl_ms":1}`)
	f.appendRaw(events.TypeHoldConfirmed, `null`)
	f.appendRaw(events.TypeHoldCancelled, `{"hold_id":"h","sku":"shirt","qty":1}`)
	e := newExpected(true, func(Difference) {})
	for i, event := range f.readAll() {
		undecodable := i > 0 && i < 6
		if (event.fault != "") != undecodable {
			t.Errorf("seq %d: got %+v, want a fault: %t", event.seq, event, undecodable)
		}
		e.apply(&event)
	}
	if e.unreadable != 5 {
		t.Errorf("got %d unreadable events, want 5", e.unreadable)
	}
	if e.seq != 7 {
		t.Errorf("got the expected state at seq %d, want 7", e.seq)
	}
}

// TestSelectCoversTheLatestVersions fails when an event type gains a version. Then check
// whether selectJournalEvents extracts the right fields of it, and add the version to
// selectCovers: all other versions are decoded one by one, slowly.
func TestSelectCoversTheLatestVersions(t *testing.T) {
	t.Parallel()
	for _, eventType := range events.Types() {
		version := strconv.Itoa(events.LatestVersion(eventType))
		if !selectCovers(eventType, version) {
			t.Errorf("%s version %s is decoded one by one: check whether selectJournalEvents extracts its fields", eventType, version)
		}
	}
}
