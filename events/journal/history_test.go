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

// record puts events into the journal: on three SKUs, holds of two events each, now and then an adjustment.
func (p *plant) record(count int) {
	p.t.Helper()
	const query = `
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', n, gen_random_uuid(),
		       CASE WHEN n % 97 = 0 THEN 'STOCK_ADJUSTED' WHEN n % 2 = 1 THEN 'HOLD_CREATED' ELSE 'HOLD_CONFIRMED' END,
		       CASE WHEN n % 97 = 0 THEN 'sku-2' ELSE 'sku-' || n / 2 % 3 END, CASE WHEN n % 97 = 0 THEN '' ELSE 'h' || n / 2 END,
		       '{}', '{}', now()
		FROM generate_series(1, $1::bigint) AS n`
	if _, err := p.db.Exec(p.ctx, query, count); err != nil {
		p.t.Fatal(err)
	}
	p.journalEndsAt(count)
}

func (p *plant) journalEndsAt(seq int) {
	p.t.Helper()
	const query = `
		INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`
	if _, err := p.db.Exec(p.ctx, query, seq); err != nil {
		p.t.Fatal(err)
	}
}

// TestHistoryPages holds that walking from page to page gives what was asked for, each event once and in order, however
// it is narrowed and however long the pages are.
func TestHistoryPages(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	const count = 400
	p.record(count)
	all, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", Limit: count})
	if err != nil || len(all.Events) != count || all.More || all.Next != count || all.End != count {
		t.Fatalf("got %d events, next %d, more %t (%v), want all %d", len(all.Events), all.Next, all.More, err, count)
	}
	for _, q := range []HistoryQuery{
		{}, {After: 390}, {After: count}, {After: count + 7}, {SKU: "sku-1"}, {SKU: "none"}, {HoldID: "h70"}, {HoldID: "none"}, {Type: events.TypeStockAdjusted},
		{Type: events.TypeHoldCreated}, {SKU: "sku-2", Type: events.TypeStockAdjusted}, {SKU: "sku-1", Type: events.TypeStockAdjusted}, {HoldID: "h70", Type: events.TypeHoldConfirmed},
		{SKU: "sku-1", HoldID: "h70"}, {SKU: "sku-0", HoldID: "h70"}, {Pool: "eu"}, {After: 350, SKU: "sku-2", Type: events.TypeHoldCreated},
	} {
		if q.Pool == "" {
			q.Pool = "main"
		}
		var want []int64
		for _, e := range all.Events {
			if e.Pool == q.Pool && e.Seq > q.After && (q.SKU == "" || e.SKU == q.SKU) && (q.HoldID == "" || e.HoldID == q.HoldID) && (q.Type == "" || e.Type == q.Type) {
				want = append(want, e.Seq)
			}
		}
		for _, limit := range []int{1, 7, 1000} {
			q := q
			q.Limit = limit
			got, pages := p.walk(q)
			if !slices.Equal(got, want) {
				t.Errorf("%+v: got %v, want %v", q, got, want)
			}
			if most := len(want)/limit + count/int(historyScanMax) + 2; pages > most {
				t.Errorf("%+v: got %d pages, want at most %d", q, pages, most)
			}
		}
	}
}

// walk reads page after page, and returns the seqs that it found.
func (p *plant) walk(q HistoryQuery) (seqs []int64, pages int) {
	p.t.Helper()
	for {
		page, err := ReadHistory(p.ctx, p.db, q)
		if err != nil || len(page.Events) > q.Limit || page.More && page.Next <= q.After {
			p.t.Fatalf("%+v: got %d events, next %d (%v)", q, len(page.Events), page.Next, err)
		}
		pages++
		for _, e := range page.Events {
			seqs = append(seqs, e.Seq)
		}
		if q.After = page.Next; !page.More {
			return seqs, pages
		}
	}
}

// TestHistoryShows holds what an event is shown as, and that odd metadata does no harm.
func TestHistoryShows(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(2)
	for metadata, want := range map[string][2]string{
		`{"causation_id": "expiry/h1", "correlation_id": "req-7"}`: {"expiry/h1", "req-7"},
		`{"causation_id": 7, "correlation_id": ["x"]}`:             {"", ""},
		`{}`: {"", ""},
	} {
		if _, err := p.db.Exec(p.ctx, `UPDATE events SET metadata = $1 WHERE seq = 2`, metadata); err != nil {
			t.Fatal(err)
		}
		page, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", After: 1, Limit: 1})
		if err != nil || len(page.Events) != 1 {
			t.Fatal(page, err)
		}
		e := page.Events[0]
		if causation, correlation := e.Causes(); [2]string{causation, correlation} != want {
			t.Errorf("%s: got %q and %q, want %q", metadata, causation, correlation, want)
		}
		if e.Seq != 2 || e.Type != events.TypeHoldConfirmed || e.RecordedAt.IsZero() || e.At.IsZero() || e.EventID.String()[14] != '4' || string(e.Payload) != "{}" {
			t.Errorf("got %+v", e)
		}
	}
}

// TestHistoryDetached holds that nobody who goes on after an event misses what came after it without being told.
func TestHistoryDetached(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(20)
	if _, err := p.db.Exec(p.ctx, `DELETE FROM events WHERE seq <= 10`); err != nil {
		t.Fatal(err)
	}
	for after, detached := range map[int64]bool{0: false, 1: true, 9: true, 10: false, 15: false, 20: false} {
		page, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		if errors.Is(err, ErrDetached) != detached || !detached && (err != nil || len(page.Events) != int(20-max(after, 10))) {
			t.Errorf("after %d: got %d events (%v); detached: %t", after, len(page.Events), err, detached)
		}
	}
	if _, err := p.db.Exec(p.ctx, `DELETE FROM events`); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", After: 10, Limit: 100}); !errors.Is(err, ErrDetached) {
		t.Errorf("all parts detached: got %v, want ErrDetached", err)
	}
}

// TestHistoryDetachedBetween holds the same of a part that is detached from between others: a page ends before it, and
// what goes on from there is told.
func TestHistoryDetachedBetween(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(20)
	p.exec(`DELETE FROM events WHERE seq BETWEEN 6 AND 10`)
	p.exec(`INSERT INTO detached_parts (part, first_seq, last_seq, events, digest) VALUES ('events_6', 6, 10, 5, '')`)
	for after, want := range map[int64]int{0: 5, 1: 4, 4: 1, 5: -1, 7: -1, 9: -1, 10: 10, 20: 0} {
		page, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", After: after, Limit: 100})
		switch {
		case want < 0:
			if !errors.Is(err, ErrDetached) {
				t.Errorf("after %d: got %d events (%v), want ErrDetached", after, len(page.Events), err)
			}
		case err != nil || len(page.Events) != want || page.More != (after < 5):
			t.Errorf("after %d: got %d events, more %t (%v); want %d", after, len(page.Events), page.More, err, want)
		case after < 5 && page.Next != 5:
			t.Errorf("after %d: the next page goes on after %d, want 5", after, page.Next)
		}
	}
	p.exec(`DELETE FROM events`)
	if page, err := ReadHistory(p.ctx, p.db, HistoryQuery{Pool: "main", Limit: 100}); err != nil || len(page.Events) != 0 || page.More {
		t.Errorf("nothing is left: got %+v (%v)", page, err)
	}
}

// beforeQuery does something before each query of a session.
type beforeQuery struct {
	do func(n int) // with the query's number, from 1
	n  int
}

func (b *beforeQuery) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	b.n++
	b.do(b.n)
	return ctx
}

func (b *beforeQuery) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestHistoryWhileDetaching holds that a page is whole, or is refused, whichever of its statements a part is detached
// before.
func TestHistoryWhileDetaching(t *testing.T) {
	t.Parallel()
	p := newArchive(t)
	oldest := p.parts()[0]
	for at := 1; ; at++ {
		config := p.config.Copy()
		hook := &beforeQuery{}
		config.Tracer = hook
		reader := testenv.Connect(t, config)
		hook.do = func(n int) {
			if n == at {
				if err := p.detach(oldest); err != nil {
					t.Errorf("detach before query %d: %v", at, err)
				}
			}
		}
		page, err := ReadHistory(p.ctx, reader, HistoryQuery{Pool: "main", After: 10, Limit: 500})
		if !errors.Is(err, ErrDetached) && (err != nil || len(page.Events) != 340 || page.Events[0].Seq != 11) {
			t.Errorf("detached before query %d: got %d events (%v)", at, len(page.Events), err)
		}
		if hook.n < at {
			break
		}
		if _, err := AttachPartition(p.ctx, p.db, oldest.Name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHistoryIndexes holds that a hold's and a SKU's events are found, and are not looked for in the whole journal.
func TestHistoryIndexes(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.record(20_000)
	if _, err := p.db.Exec(p.ctx, `ANALYZE events`); err != nil { //nolint:misspell // it is Postgres's word
		t.Fatal(err)
	}
	for index, q := range map[string]HistoryQuery{
		"hold": {Pool: "main", HoldID: "h70", Limit: 100},
		"sku":  {Pool: "main", SKU: "rare", After: 3, Limit: 100},
	} {
		query, args := q.page(20_000)
		rows, err := p.db.Query(p.ctx, "EXPLAIN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, line)
		}
		text := strings.Join(plan, "\n")
		found := regexp.MustCompile(`Index Scan (using|on) \S*` + index).MatchString(text)
		if rows.Err() != nil || !found || regexp.MustCompile(`using \S*pkey`).MatchString(text) {
			t.Errorf("%s: got the plan (%v)\n%s", index, rows.Err(), text)
		}
	}
}
