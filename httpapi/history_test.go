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

// journal runs the journal until what is on the stream now is in it.
func (s *shop) journal() {
	s.t.Helper()
	writer := &journal.Writer{Park: deadletters.ParkEntries, Redis: s.redis, Log: slog.New(slog.DiscardHandler)}
	stop := testenv.RunRouter(s.t, func(router *message.Router) {
		writer.AddTo(router, journal.StreamSubscriberConfig{
			Redis: s.redis, Postgres: s.postgres.Config().ConnConfig, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler),
		})
	})
	log, err := stream.ReadHead(s.ctx, s.redis, events.MainPool)
	if err != nil {
		s.t.Fatal(err)
	}
	testenv.Eventually(s.t, 20*time.Second, func() (bool, string) {
		seq, err := worker.ReadCheckpoint(s.ctx, s.postgres, journal.CheckpointName, "main")
		return seq == log.Seq, fmt.Sprintf("the journal is at %d of %d (%v)", seq, log.Seq, err)
	})
	stop()
}

// history reads a page.
func (s *shop) history(path string) (page EventsAnswer, header http.Header) {
	s.t.Helper()
	r := s.get(path)
	if err := json.Unmarshal([]byte(r.raw), &page); err != nil || r.status != http.StatusOK {
		s.t.Fatalf("%s: got %d %s (%v)", path, r.status, r.raw, err)
	}
	return page, r.header
}

func typesOf(page EventsAnswer) string {
	var types []string
	for _, e := range page.Events {
		types = append(types, e.Type)
	}
	return strings.Join(types, " ")
}

// TestHistory tells what happened to a hold and to a SKU, when, and caused by what.
func TestHistory(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 3, 0)
	s.redis.Set(s.ctx, "stock:sock", 3, 0)
	id := s.post("/holds", reserveBody, "X-Request-Id", "req-1").text("hold_id")
	s.post("/holds", `{"sku":"sock","qty":1,"user_id":"bob","idempotency_key":"k2"}`).want(t, "reserve a sock", 201, "")
	s.post("/holds/"+id+"/confirm", `{"payment_ref":"p1"}`, "X-Request-Id", "req-2").want(t, "confirm", 200, "")
	s.journal()

	ofHold, _ := s.history("/holds/" + id + "/events")
	if got := typesOf(ofHold); got != "HOLD_CREATED HOLD_CONFIRMED" || ofHold.Next != "main:5" {
		t.Fatalf("of the hold: got %s, next %s", got, ofHold.Next)
	}
	made, paid := ofHold.Events[0], ofHold.Events[1]
	if made.Seq != 2 || made.Position != "main:2" || made.Version != 1 || made.SKU != "shirt" || made.HoldID != id || made.CorrelationID != "req-1" ||
		made.EventID == "" || time.Since(made.At) > time.Minute || made.RecordedAt.Before(made.At) || string(made.Metadata) != `{"correlation_id":"req-1"}` {
		t.Errorf("made: got %+v", made)
	}
	var payload events.HoldConfirmed
	if err := json.Unmarshal(paid.Payload, &payload); err != nil || payload.PaymentRef != "p1" || paid.CorrelationID != "req-2" || paid.CausationID != "" {
		t.Errorf("paid: got %+v (%v)", paid, err)
	}
	if raw := s.get("/holds/" + id + "/events").raw; strings.Contains(raw, "causation_id") {
		t.Errorf("a cause that nobody gave is shown: %s", raw)
	}

	ofSKU, _ := s.history("/stock/shirt/events")
	if got := typesOf(ofSKU); got != "STOCK_ADJUSTED HOLD_CREATED HOLD_CONFIRMED" || ofSKU.Events[0].Version != 2 || ofSKU.Events[0].HoldID != "" {
		t.Errorf("of the SKU: got %s: %+v", got, ofSKU.Events[0])
	}
	for path, want := range map[string]string{
		"/stock/nothing/events":                      "",
		"/stock/shirt/events?type=STOCK_ADJUSTED":    "STOCK_ADJUSTED",
		"/stock/shirt/events?after=main:2":           "HOLD_CONFIRMED",
		"/holds/" + id + "/events?type=HOLD_CREATED": "HOLD_CREATED",
		"/holds/" + id + "/events?after=main:9":      "",
		"/events?sku=sock":                           "STOCK_ADJUSTED HOLD_CREATED",
		"/events?hold=" + id + "&after=main:2":       "HOLD_CONFIRMED",
		"/events?type=HOLD_CONFIRMED&sku=sock":       "",
		"/events?after=main:0&limit=1":               "STOCK_ADJUSTED",
		"/events?hold=none":                          "",
	} {
		page, _ := s.history(path)
		if got := typesOf(page); got != want || page.Events == nil {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

// TestHistoryLinks holds that following the links gives every event once, in order, and that a page which is the last
// for now says where to go on later.
func TestHistoryLinks(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 3, 0)
	s.project(`
		INSERT INTO events (pool, seq, event_id, type, sku, hold_id, payload, metadata, at)
		SELECT 'main', n, gen_random_uuid(), 'STOCK_ADJUSTED', 's/' || n % 2, '', '{}', '{}', now() FROM generate_series(1, 25) AS n`)
	s.project(`INSERT INTO checkpoints VALUES ('journal', 'main', 25)`)
	for path, want := range map[string][2]int64{ // how many events, and pages
		"/events?limit=10":                               {25, 3},
		"/events?limit=25":                               {25, 1},
		"/events?limit=5&sku=s%2F1":                      {13, 3},
		"/stock/s%2F1/events?limit=6&after=main%3A3":     {11, 2},
		"/events?limit=4&type=STOCK_ADJUSTED&sku=s%2F0&": {12, 3},
	} {
		var count, pages, last int64
		for next := path; next != ""; pages++ {
			page, header := s.history(next)
			for _, e := range page.Events {
				if count++; e.Seq <= last {
					t.Errorf("%s: event %d comes after %d", next, e.Seq, last)
				}
				last = e.Seq
			}
			link, isLink := strings.CutSuffix(header.Get("Link"), `>; rel="next"`)
			if next = strings.TrimPrefix(link, "<"); !isLink {
				next = ""
				if page.Next != "main:25" {
					t.Errorf("%s: the last page goes on at %s, want main:25", path, page.Next)
				}
			}
		}
		if got := [2]int64{count, pages}; got != want {
			t.Errorf("%s: got %d events on %d pages, want %v", path, count, pages, want)
		}
	}
	s.project(`DELETE FROM events WHERE seq <= 5`)
	s.get("/events?after=main:3").want(t, "after what was detached", 410, "EVENTS_DETACHED")
	if page, _ := s.history("/events?limit=1"); page.Events[0].Seq != 6 {
		t.Errorf("without a position: got %d first, want 6", page.Events[0].Seq)
	}
}

// TestHistoryRefuses holds that a bad question is told from an empty answer.
func TestHistoryRefuses(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.get("/holds/none/events").want(t, "no such hold", 404, "UNKNOWN_HOLD")
	s.get("/holds/none/events?after=main:7&type=HOLD_CREATED").want(t, "no such hold, later", 404, "UNKNOWN_HOLD")
	s.get("/holds/%00/events").want(t, "a hold that is none", 404, "UNKNOWN_HOLD")
	for path, field := range map[string]string{
		"/events?after=42": "after", "/events?after=eu:42": "after", "/events?after=main:-1": "after", "/events?after=main:x": "after",
		"/events?limit=0": "limit", "/events?limit=1001": "limit", "/events?limit=x": "limit", "/events?limit=-1": "limit",
		"/events?type=SOLD": "type", "/events?sku=%00": "sku", "/events?hold=%ff": "hold", "/stock/%00/events": "sku",
		"/holds/h/events?limit=0": "limit", "/stock/shirt/events?after=x": "after",
	} {
		r := s.get(path)
		r.want(t, path, 400, "INVALID_REQUEST")
		if faults, _ := r.body["errors"].([]any); len(faults) != 1 || !strings.Contains(fmt.Sprint(faults[0]), "field:"+field) {
			t.Errorf("%s: got %v, want the field %s", path, r.body["errors"], field)
		}
	}
	if r := s.get("/events?after=x&limit=x&type=x"); len(r.body["errors"].([]any)) != 3 {
		t.Errorf("three faults at once: got %s", r.raw)
	}
	s.send(http.MethodPost, "/events", "{}").want(t, "another method", 405, "WRONG_METHOD")
}

// TestHistoryWithoutPostgres holds that a journal that cannot be asked is no fault of the request.
func TestHistoryWithoutPostgres(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	s := openShopOn(t, postgres.URL())
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
