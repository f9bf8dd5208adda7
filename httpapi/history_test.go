package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// runJournal runs the journal until it has all events that are in the stream now.
func (s *testServer) runJournal() {
	s.t.Helper()
	writer := &journal.Writer{
		Park:  deadletters.ParkEntries,
		Redis: s.redis,
		Log:   slog.New(slog.DiscardHandler),
	}
	stop := testenv.RunRouter(s.t, func(router *message.Router) {
		writer.AddTo(router, journal.StreamSubscriberConfig{
			Redis:    s.redis,
			Postgres: s.postgres.Config().ConnConfig,
			Pool:     events.MainPool,
			Log:      slog.New(slog.DiscardHandler),
		})
	})
	log, err := stream.ReadHead(s.ctx, s.redis, events.MainPool)
	if err != nil {
		s.t.Fatal(err)
	}
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		seq, err := worker.ReadCheckpoint(s.ctx, s.postgres, journal.CheckpointName, "main")
		return seq == log.Seq, fmt.Sprintf("the journal has reached seq %d of %d (%v)", seq, log.Seq, err)
	})
	stop()
}

// history requests a page of events and fails the test unless the answer is one.
func (s *testServer) history(path string) (page EventsAnswer, header http.Header) {
	s.t.Helper()
	r := s.get(path)
	if r.status != http.StatusOK {
		s.t.Fatalf("%s: got %d %s, want a page", path, r.status, r.raw)
	}
	if err := json.Unmarshal([]byte(r.raw), &page); err != nil {
		s.t.Fatalf("%s: got %s: %v", path, r.raw, err)
	}
	return page, r.header
}

// typesOf returns the types of a page's events, separated by spaces.
func typesOf(page EventsAnswer) string {
	var types []string
	for _, e := range page.Events {
		types = append(types, e.Type)
	}
	return strings.Join(types, " ")
}

// TestHistoryOfHoldAndSKU checks the events of a hold and of a SKU with all their fields,
// and each filter.
func TestHistoryOfHoldAndSKU(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 3, 0)
	s.redis.Set(s.ctx, "stock:sock", 3, 0)
	id := s.post("/holds", reserveBody, "X-Request-Id", "req-1").text("hold_id")
	s.post("/holds", `{"sku":"sock","qty":1,"user_id":"bob","idempotency_key":"k2"}`).want(t,
		"reserve a sock", 201, "")
	s.post("/holds/"+id+"/confirm", `{"payment_ref":"p1"}`, "X-Request-Id", "req-2").want(t, "confirm", 200,
		"")
	s.runJournal()

	ofHold, _ := s.history("/holds/" + id + "/events")
	if got, want := typesOf(ofHold), "HOLD_CREATED HOLD_CONFIRMED"; got != want {
		t.Fatalf("events of the hold: got %s, want %s", got, want)
	}
	if ofHold.Next != "main:5" {
		t.Fatalf("next of the hold's events: got %s, want main:5", ofHold.Next)
	}
	created := ofHold.Events[0]
	if created.EventID == "" {
		t.Errorf("the event has no id: %+v", created)
	}
	if time.Since(created.At) > time.Minute {
		t.Errorf("at: got %s, want a time within the last minute", created.At)
	}
	if created.RecordedAt.Before(created.At) {
		t.Errorf("recorded at %s, before it happened at %s", created.RecordedAt, created.At)
	}
	for _, field := range []struct {
		name      string
		got, want any
	}{
		{"seq", created.Seq, int64(2)},
		{"position", created.Position, "main:2"},
		{"version", created.Version, 1},
		{"sku", created.SKU, "shirt"},
		{"hold_id", created.HoldID, id},
		{"correlation_id", created.CorrelationID, "req-1"},
		{"metadata", string(created.Metadata), `{"correlation_id":"req-1"}`},
	} {
		if field.got != field.want {
			t.Errorf("%s of the created hold: got %v, want %v", field.name, field.got, field.want)
		}
	}
	confirmed := ofHold.Events[1]
	var payload events.HoldConfirmed
	if err := json.Unmarshal(confirmed.Payload, &payload); err != nil {
		t.Fatal(err)
	}
	if payload.PaymentRef != "p1" {
		t.Errorf("payment of the confirmed hold: got %s, want p1", payload.PaymentRef)
	}
	if confirmed.CorrelationID != "req-2" {
		t.Errorf("correlation_id of the confirmed hold: got %s, want req-2", confirmed.CorrelationID)
	}
	if confirmed.CausationID != "" {
		t.Errorf("causation_id of the confirmed hold: got %s, want none", confirmed.CausationID)
	}
	if raw := s.get("/holds/" + id + "/events").raw; strings.Contains(raw, "causation_id") {
		t.Errorf("got a causation_id without a cause: %s", raw)
	}

	ofSKU, _ := s.history("/stock/shirt/events")
	if got, want := typesOf(ofSKU), "STOCK_ADJUSTED HOLD_CREATED HOLD_CONFIRMED"; got != want {
		t.Fatalf("events of the SKU: got %s, want %s", got, want)
	}
	adjusted := ofSKU.Events[0]
	if adjusted.Version != 2 {
		t.Errorf("version of the adjustment: got %d, want 2", adjusted.Version)
	}
	if adjusted.HoldID != "" {
		t.Errorf("hold of the adjustment: got %s, want none", adjusted.HoldID)
	}
	for path, want := range map[string]string{
		"/stock/nothing/events":                      "",
		"/stock/shirt/events?type=STOCK_ADJUSTED":    "STOCK_ADJUSTED",
		"/stock/shirt/events?after=main:2":           "HOLD_CONFIRMED",
		"/holds/" + id + "/events?type=HOLD_CREATED": "HOLD_CREATED",
		"/events?sku=sock":                           "STOCK_ADJUSTED HOLD_CREATED",
		"/events?hold=" + id + "&after=main:2":       "HOLD_CONFIRMED",
		"/events?type=HOLD_CONFIRMED&sku=sock":       "",
		"/events?after=main:0&limit=1":               "STOCK_ADJUSTED",
		"/events?hold=none":                          "",
	} {
		page, _ := s.history(path)
		if got := typesOf(page); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
		if page.Events == nil {
			t.Errorf("%s: the list of events is null, want an empty list", path)
		}
	}
}

// TestHistoryLinksGiveEveryEventOnce checks that the Link headers lead to every event
// once, in order, that the last page names the position to continue from later, and that
// a position in a detached partition is refused.
func TestHistoryLinksGiveEveryEventOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 3, 0)
	s.exec(`
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', n, gen_random_uuid(), 'STOCK_ADJUSTED', 's+' || n % 2, '', '{}', '{}', now() FROM generate_series(1, 25) AS n`)
	s.exec(`INSERT INTO checkpoints VALUES ('journal', 'main', 25)`)
	for path, want := range map[string][2]int64{ // the number of events and of pages
		"/events?limit=10":                               {25, 3},
		"/events?limit=25":                               {25, 1},
		"/events?limit=5&sku=s%2B1":                      {13, 3},
		"/stock/s+1/events?limit=6&after=main%3A3":       {11, 2},
		"/events?limit=4&type=STOCK_ADJUSTED&sku=s%2B0&": {12, 3},
	} {
		var count, pages, last int64
		for next := path; next != ""; pages++ {
			page, header := s.history(next)
			for _, e := range page.Events {
				count++
				if e.Seq <= last {
					t.Errorf("%s: event %d comes after event %d", next, e.Seq, last)
				}
				last = e.Seq
			}
			link, hasNext := strings.CutSuffix(header.Get("Link"), `>; rel="next"`)
			next = strings.TrimPrefix(link, "<")
			if !hasNext {
				next = ""
				if page.Next != "main:25" {
					t.Errorf("%s: next of the last page: got %s, want main:25", path, page.Next)
				}
			}
		}
		if got := [2]int64{count, pages}; got != want {
			t.Errorf("%s: got %d events on %d pages, want %d on %d", path, count, pages, want[0], want[1])
		}
	}
	s.exec(`DELETE FROM events WHERE seq <= 5`)
	s.get("/events?after=main:3").want(t, "after a detached event", 410, "EVENTS_DETACHED")
	if page, _ := s.history("/events?limit=1"); page.Events[0].Seq != 6 {
		t.Errorf("first event without a position: got seq %d, want 6", page.Events[0].Seq)
	}
}

// TestHistoryRefusesBadParameters checks that an unknown hold is 404, and that a bad
// parameter is 400 and named.
func TestHistoryRefusesBadParameters(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.get("/holds/none/events").want(t, "no such hold", 404, "UNKNOWN_HOLD")
	s.get("/holds/none/events?after=main:7&type=HOLD_CREATED").want(t, "no such hold, later", 404,
		"UNKNOWN_HOLD")
	for path, field := range map[string]string{
		"/events?after=42": "after", "/events?after=eu:42": "after", "/events?after=main:-1": "after",
		"/events?after=main:x": "after",
		"/events?limit=0":      "limit", "/events?limit=1001": "limit", "/events?limit=x": "limit",
		"/events?limit=-1":  "limit",
		"/events?type=SOLD": "type", "/events?sku=%00": "sku", "/events?hold=%ff": "hold",
		"/stock/%00/events": "sku", "/holds/%00/events": "hold_id",
		"/holds/h/events?limit=0": "limit", "/stock/shirt/events?after=x": "after",
	} {
		r := s.get(path)
		r.want(t, path, 400, "INVALID_REQUEST")
		faults, _ := r.body["errors"].([]any)
		if len(faults) != 1 {
			t.Errorf("%s: got %d faults, want 1: %s", path, len(faults), r.raw)
		}
		if !strings.Contains(fmt.Sprint(faults), "field:"+field) {
			t.Errorf("%s: got the faults %v, want the field %s", path, faults, field)
		}
	}
	if r := s.get("/events?after=x&limit=x&type=x"); len(r.body["errors"].([]any)) != 3 {
		t.Errorf("three faults at once: got %s, want three errors", r.raw)
	}
	s.send(http.MethodPost, "/events", "{}").want(t, "another method", 405, "WRONG_METHOD")
}

// TestHistoryWithoutPostgresIsUnavailable checks that events are 503 while Postgres is
// down, and back after its restart.
func TestHistoryWithoutPostgresIsUnavailable(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	s := startServerOn(t, postgres.URL())
	if err := postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	s.get("/events").want(t, "no Postgres", 503, "UNAVAILABLE")
	if err := postgres.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		r := s.get("/events")
		return r.status == http.StatusOK, r.raw
	})
}

// TestPositionBeyondTheLogIsRefused checks that a position which neither the journal nor
// Redis has reached is refused, while one that only Redis has reached waits for the
// journal.
func TestPositionBeyondTheLogIsRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 3, 0)
	s.post("/holds", reserveBody).want(t, "reserve", 201, "")
	for _, journaled := range []bool{false, true} {
		if journaled {
			s.runJournal()
		}
		page, _ := s.history("/events?after=main:2")
		if page.Next != "main:2" || len(page.Events) != 0 {
			t.Errorf("after the log's end: got %d events and next %s, want none and main:2",
				len(page.Events), page.Next)
		}
		for _, path := range []string{"/events?after=main:3", "/stock/shirt/events?after=main:999999"} {
			r := s.get(path)
			r.want(t, path, 400, "INVALID_REQUEST")
			r.wantText(t, path, "detail", "after is beyond the end of the log, main:2")
		}
	}
	if err := s.redisServer.Kill(); err != nil {
		t.Fatal(err)
	}
	if page, _ := s.history("/events?after=main:3"); len(page.Events) != 0 {
		t.Errorf("without Redis: got %d events, want none", len(page.Events))
	}
}
