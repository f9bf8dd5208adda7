package journal

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// insertHistory inserts events into the journal's table: holds of two events each on
// three SKUs, and a stock adjustment at every 97th seq.
func (f *fixture) insertHistory(count int64) {
	f.t.Helper()
	f.exec(`
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', n, gen_random_uuid(),
		       CASE WHEN n % 97 = 0 THEN 'STOCK_ADJUSTED' WHEN n % 2 = 1 THEN 'HOLD_CREATED' ELSE 'HOLD_CONFIRMED' END,
		       CASE WHEN n % 97 = 0 THEN 'sku-2' ELSE 'sku-' || n / 2 % 3 END,
		       CASE WHEN n % 97 = 0 THEN '' ELSE 'h' || n / 2 END,
		       '{}', '{}', now()
		FROM generate_series(1, $1::bigint) AS n`, count)
	f.setCheckpoint(CheckpointName, count)
}

// readHistory returns a page. The query must succeed.
func (f *fixture) readHistory(q HistoryQuery) HistoryPage {
	f.t.Helper()
	page, err := ReadHistory(f.ctx, f.db, q)
	if err != nil {
		f.t.Fatalf("%+v: %v", q, err)
	}
	return page
}

// TestHistoryPagesHaveEachMatchingEventOnce checks that reading page after page gives
// exactly the events that a query asks for, each once and in order, with every
// combination of filters and with short and long pages.
func TestHistoryPagesHaveEachMatchingEventOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const count = 400
	f.insertHistory(count)
	all := f.readHistory(HistoryQuery{Pool: "main", Limit: count})
	if got := len(all.Events); got != count {
		t.Fatalf("the whole history: got %d events, want %d", got, count)
	}
	if all.More {
		t.Fatal("the whole history: got More, want no further page")
	}
	if all.Next != count {
		t.Fatalf("the whole history: got Next %d, want %d", all.Next, count)
	}
	if all.End != count {
		t.Fatalf("the whole history: got End %d, want %d", all.End, count)
	}
	for _, q := range []HistoryQuery{
		{},
		{After: 390},
		{After: count},
		{After: count + 7},
		{SKU: "sku-1"},
		{SKU: "none"},
		{HoldID: "h70"},
		{HoldID: "none"},
		{Type: events.TypeStockAdjusted},
		{Type: events.TypeHoldCreated},
		{SKU: "sku-2", Type: events.TypeStockAdjusted},
		{SKU: "sku-1", Type: events.TypeStockAdjusted},
		{HoldID: "h70", Type: events.TypeHoldConfirmed},
		{SKU: "sku-1", HoldID: "h70"},
		{SKU: "sku-0", HoldID: "h70"},
		{Pool: "eu"},
		{After: 350, SKU: "sku-2", Type: events.TypeHoldCreated},
	} {
		if q.Pool == "" {
			q.Pool = "main"
		}
		want := matchingSeqs(all.Events, q)
		for _, limit := range []int{1, 7, 1000} {
			q := q
			q.Limit = limit
			got, pages := f.readPages(q)
			if !slices.Equal(got, want) {
				t.Errorf("%+v: got seqs %v, want %v", q, got, want)
			}
			if pagesMax := len(want)/limit + count/int(historyScanMax) + 2; pages > pagesMax {
				t.Errorf("%+v: got %d pages, want at most %d", q, pages, pagesMax)
			}
		}
	}
}

// matchingSeqs returns the seqs of the events that match a query.
func matchingSeqs(all []Recorded, q HistoryQuery) (seqs []int64) {
	for _, e := range all {
		switch {
		case e.Pool != q.Pool || e.Seq <= q.After:
		case q.SKU != "" && e.SKU != q.SKU:
		case q.HoldID != "" && e.HoldID != q.HoldID:
		case q.Type != "" && e.Type != q.Type:
		default:
			seqs = append(seqs, e.Seq)
		}
	}
	return seqs
}

// readPages reads page after page and returns the seqs of their events and the number of
// pages.
func (f *fixture) readPages(q HistoryQuery) (seqs []int64, pages int) {
	f.t.Helper()
	for {
		page := f.readHistory(q)
		if len(page.Events) > q.Limit {
			f.t.Fatalf("%+v: got %d events in a page, want at most %d", q, len(page.Events), q.Limit)
		}
		if page.More && page.Next <= q.After {
			f.t.Fatalf("%+v: got Next %d, want it above %d", q, page.Next, q.After)
		}
		pages++
		for _, e := range page.Events {
			seqs = append(seqs, e.Seq)
		}
		q.After = page.Next
		if !page.More {
			return seqs, pages
		}
	}
}

// TestHistoryEventHasItsFieldsAndCauses checks the fields of an event of the history, and
// that metadata of the wrong JSON type counts as absent.
func TestHistoryEventHasItsFieldsAndCauses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(2)
	for metadata, want := range map[string]struct{ causation, correlation string }{
		`{"causation_id": "expiry/h1", "correlation_id": "req-7"}`: {
			causation:   "expiry/h1",
			correlation: "req-7",
		},
		`{"causation_id": 7, "correlation_id": ["x"]}`: {},
		`{}`: {},
	} {
		f.exec(`UPDATE events SET metadata = $1 WHERE seq = 2`, metadata)
		page := f.readHistory(HistoryQuery{Pool: "main", After: 1, Limit: 1})
		if len(page.Events) != 1 {
			t.Fatalf("page after seq 1: got %d events, want 1", len(page.Events))
		}
		e := page.Events[0]
		causation, correlation := e.Causes()
		if causation != want.causation {
			t.Errorf("%s: got causation id %q, want %q", metadata, causation, want.causation)
		}
		if correlation != want.correlation {
			t.Errorf("%s: got correlation id %q, want %q", metadata, correlation, want.correlation)
		}
		if e.Seq != 2 {
			t.Errorf("seq: got %d, want 2", e.Seq)
		}
		if e.Type != events.TypeHoldConfirmed {
			t.Errorf("type: got %s, want %s", e.Type, events.TypeHoldConfirmed)
		}
		if e.RecordedAt.IsZero() {
			t.Error("RecordedAt: got zero, want a time")
		}
		if e.At.IsZero() {
			t.Error("At: got zero, want a time")
		}
		if id := e.EventID.String(); id[14] != '4' {
			t.Errorf("event id: got %s, want a UUID of version 4", id)
		}
		if string(e.Payload) != "{}" {
			t.Errorf("payload: got %s, want {}", e.Payload)
		}
	}
}

// TestHistoryAfterADetachedEventIsRefused checks that a query is refused with ErrDetached
// if the event after its After is detached, since its page would skip events silently.
func TestHistoryAfterADetachedEventIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(20)
	f.exec(`DELETE FROM events WHERE seq <= 10`)
	for _, after := range []int64{1, 9} {
		_, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		if !errors.Is(err, ErrDetached) {
			t.Errorf("after %d: got %v, want ErrDetached", after, err)
		}
	}
	for after, want := range map[int64]int{0: 10, 10: 10, 15: 5, 20: 0} {
		page, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		if err != nil {
			t.Errorf("after %d: got %v, want no error", after, err)
		}
		if got := len(page.Events); got != want {
			t.Errorf("after %d: got %d events, want %d", after, got, want)
		}
	}
	f.exec(`DELETE FROM events`)
	_, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "main", After: 10, Limit: 100})
	if !errors.Is(err, ErrDetached) {
		t.Errorf("all partitions are detached: got %v, want ErrDetached", err)
	}
}

// TestHistoryPageEndsBeforeADetachedPartition checks that a page ends before a partition
// that is detached from between two others, and that a query that would continue there is
// refused.
func TestHistoryPageEndsBeforeADetachedPartition(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(20)
	f.exec(`DELETE FROM events WHERE seq BETWEEN 6 AND 10`)
	f.exec(`
		INSERT INTO detached_parts (pool, part, first_seq, last_seq, events, digest) VALUES ('main', 'events_6', 6, 10, 5, '')`)
	for _, after := range []int64{5, 7, 9} {
		_, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		if !errors.Is(err, ErrDetached) {
			t.Errorf("after %d: got %v, want ErrDetached", after, err)
		}
	}
	for after, want := range map[int64]int{0: 5, 1: 4, 4: 1, 10: 10, 20: 0} {
		page, err := ReadHistory(f.ctx, f.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		if err != nil {
			t.Errorf("after %d: got %v, want no error", after, err)
		}
		if got := len(page.Events); got != want {
			t.Errorf("after %d: got %d events, want %d", after, got, want)
		}
		if wantMore := after < 5; page.More != wantMore {
			t.Errorf("after %d: got More %t, want %t", after, page.More, wantMore)
		}
		if after < 5 && page.Next != 5 {
			t.Errorf("after %d: got Next %d, want 5", after, page.Next)
		}
	}
	f.exec(`DELETE FROM events`)
	page := f.readHistory(HistoryQuery{Pool: "main", Limit: 100})
	if got := len(page.Events); got != 0 {
		t.Errorf("history of an empty journal: got %d events, want 0", got)
	}
	if page.More {
		t.Error("history of an empty journal: got More, want no further page")
	}
}

// queryHook is a pgx tracer that calls a function before each query of a connection.
type queryHook struct {
	before  func(n int) // n is the number of the query, from 1
	queries int
}

// TraceQueryStart implements pgx.QueryTracer.
func (h *queryHook) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData,
) context.Context {
	h.queries++
	h.before(h.queries)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (h *queryHook) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestHistoryPageIsCompleteOrRefusedDuringADetach checks that a page has all its events
// or is refused with ErrDetached, whichever of its queries a partition is detached
// before.
func TestHistoryPageIsCompleteOrRefusedDuringADetach(t *testing.T) {
	t.Parallel()
	f := newPartitionedJournal(t)
	oldest := f.partitions()[0]
	for at := 1; ; at++ {
		hook := &queryHook{}
		config := f.config.Copy()
		config.Tracer = hook
		reader := testenv.Connect(t, config)
		hook.before = func(n int) {
			if n != at {
				return
			}
			if err := f.detach(oldest); err != nil {
				t.Errorf("detach before query %d: %v", at, err)
			}
		}
		page, err := ReadHistory(f.ctx, reader, HistoryQuery{Pool: "main", After: 10, Limit: 500})
		if !errors.Is(err, ErrDetached) {
			assertEvents11To350(t, at, page, err)
		}
		if hook.queries < at {
			break
		}
		if _, err := AttachPartition(f.ctx, f.db, oldest.Name); err != nil {
			t.Fatal(err)
		}
	}
}

func assertEvents11To350(t *testing.T, detachedBefore int, page HistoryPage, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("detached before query %d: got %v, want a page or ErrDetached", detachedBefore, err)
		return
	}
	if got := len(page.Events); got != 340 {
		t.Errorf("detached before query %d: got %d events, want 340", detachedBefore, got)
		return
	}
	if got := page.Events[0].Seq; got != 11 {
		t.Errorf("detached before query %d: got the first seq %d, want 11", detachedBefore, got)
	}
}

// TestHistoryUsesTheIndexes checks that the events of one hold or one SKU are found
// through their index, without a scan of the whole journal.
func TestHistoryUsesTheIndexes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(20_000)
	f.exec(`ANALYZE events`) //nolint:misspell // it is Postgres's word
	for index, q := range map[string]HistoryQuery{
		"hold": {Pool: "main", HoldID: "h70", Limit: 100},
		"sku": {
			Pool:  "main",
			SKU:   "rare",
			After: 3,
			Limit: 100,
		},
	} {
		query, args := q.page(20_000)
		plan := strings.Join(f.explain(query, args...), "\n")
		if !regexp.MustCompile(`Index Scan (using|on) \S*` + index).MatchString(plan) {
			t.Errorf("query by %s: got this plan, want one with the index of %s\n%s", index, index, plan)
		}
		if regexp.MustCompile(`using \S*pkey`).MatchString(plan) {
			t.Errorf("query by %s: got this plan, want one without the primary key\n%s", index, plan)
		}
	}
}
