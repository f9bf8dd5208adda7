package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

const reserveBody = `{"sku":"shirt","qty":1,"user_id":"ann","idempotency_key":"k1"}`

// TestCommandRoutes goes through every route that changes something and checks its
// answers: success, repeat and refusal.
func TestCommandRoutes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.post("/holds/reserve", reserveBody).want(t, "reserve an unknown SKU", 404, "UNKNOWN_SKU")

	r := s.post("/stock/shirt/adjustments", `{"delta":3,"reason":"delivery"}`, "Idempotency-Key", "a1")
	r.want(t, "adjust", 200, "")
	r.wantText(t, "adjust", "sku", "shirt")
	r.wantNumber(t, "adjust", "available", 3)
	r.wantHeader(t, "adjust", "Stockstream-Position", "main:1")

	first := s.post("/holds/reserve", reserveBody)
	first.want(t, "reserve", 201, "")
	id := first.text("hold_id")
	first.wantHeader(t, "reserve", "Location", "/holds/"+id)
	first.wantHeader(t, "reserve", "Stockstream-Position", "main:2")
	first.wantHeader(t, "reserve", "Idempotency-Replayed", "")
	first.wantText(t, "reserve", "sku", "shirt")
	first.wantNumber(t, "reserve", "qty", 1)
	first.wantText(t, "reserve", "user_id", "ann")
	first.wantText(t, "reserve", "status", "ACTIVE")
	first.wantNumber(t, "reserve", "expires_in_ms", 300_000)
	expiresAt, err := time.Parse(time.RFC3339, first.text("expires_at"))
	if err != nil {
		t.Errorf("expires_at: %v", err)
	}
	if left := time.Until(expiresAt); left > 5*time.Minute+time.Second || left < 4*time.Minute {
		t.Errorf("expires_at: got a time in %s, want about 5 minutes", left)
	}
	for _, path := range []string{"/holds/reserve", "/holds"} {
		again := s.post(path, `{"sku":"shirt","qty":1,"user_id":"ann"}`, "Idempotency-Key", `"k1"`)
		again.want(t, "reserve again at "+path, 201, "")
		again.wantText(t, "reserve again at "+path, "hold_id", id)
		again.wantHeader(t, "reserve again at "+path, "Idempotency-Replayed", "true")
		again.wantHeader(t, "reserve again at "+path, "Stockstream-Position", "main:2")
	}
	s.post("/holds", `{"sku":"shirt","qty":2,"user_id":"ann","idempotency_key":"k1"}`).want(t,
		"reserve with the key of another request", 422, "IDEMPOTENCY_MISMATCH")

	order := s.post("/holds/confirm", `{"hold_id":"`+id+`","payment_ref":"p1"}`)
	order.want(t, "confirm", 200, "")
	order.wantText(t, "confirm", "order_id", "ord_"+id)
	order.wantText(t, "confirm", "status", "CONFIRMED")
	order.wantText(t, "confirm", "payment_ref", "p1")
	order.wantHeader(t, "confirm", "Stockstream-Position", "main:3")
	again := s.post("/holds/"+id+"/confirm", `{"payment_ref":"p1"}`)
	again.want(t, "confirm again", 200, "")
	if again.raw != order.raw {
		t.Errorf("confirm again: got %s, want the first answer %s", again.raw, order.raw)
	}
	again.wantHeader(t, "confirm again", "Idempotency-Replayed", "true")
	s.post("/holds/confirm", `{"hold_id":"`+id+`","payment_ref":"p2"}`).want(t,
		"confirm with another payment", 409, "HOLD_CONFIRMED")
	s.post("/holds/"+id+"/cancel", "").want(t, "cancel a confirmed hold", 409, "HOLD_CONFIRMED")

	second := s.post("/holds", `{"sku":"shirt","qty":2,"user_id":"bob","ttl_seconds":60}`,
		"Idempotency-Key", "k2")
	second.want(t, "reserve the rest", 201, "")
	soldOut := s.post("/holds", `{"sku":"shirt","qty":1,"user_id":"eve"}`, "Idempotency-Key", "k3")
	soldOut.want(t, "reserve without stock", 409, "SOLD_OUT")
	soldOut.wantText(t, "reserve without stock", "title", "SOLD OUT")
	if soldOut.body["available"] != float64(0) {
		t.Errorf("reserve without stock: available: got %v, want 0", soldOut.body["available"])
	}
	for i, replayed := range []string{"", "true"} {
		cancelled := s.post("/holds/cancel", `{"hold_id":"`+second.text("hold_id")+`"}`)
		step := fmt.Sprintf("cancel, request %d", i+1)
		cancelled.want(t, step, 200, "")
		cancelled.wantText(t, step, "status", "CANCELLED")
		cancelled.wantHeader(t, step, "Idempotency-Replayed", replayed)
	}
	s.post("/holds/"+second.text("hold_id")+"/confirm", `{"payment_ref":"p"}`).want(t,
		"confirm a cancelled hold", 409, "HOLD_CANCELLED")
	s.post("/holds/none/confirm", `{"payment_ref":"p"}`).want(t, "confirm an unknown hold", 404,
		"UNKNOWN_HOLD")
	s.post("/holds/none/cancel", `{}`).want(t, "cancel an unknown hold", 404, "UNKNOWN_HOLD")
	s.post("/stock/shirt/adjustments", `{"delta":-3,"reason":"broken","idempotency_key":"a2"}`).want(t,
		"remove more stock than there is", 409, "INSUFFICIENT_STOCK")
	live := s.get("/stock/shirt")
	live.want(t, "read the stock", 200, "")
	live.wantNumber(t, "read the stock", "available", 2)
	s.get("/stock/sock").want(t, "read the stock of an unknown SKU", 404, "UNKNOWN_SKU")
}

// TestConfirmAndCancelAfterDeadlineAreRefused checks that a hold cannot be confirmed or
// cancelled after its deadline, even before the saga has expired it.
func TestConfirmAndCancelAfterDeadlineAreRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 1, 0)
	r := s.post("/holds", `{"sku":"shirt","qty":1,"user_id":"ann","ttl_seconds":1,"idempotency_key":"k"}`)
	r.want(t, "reserve for a second", 201, "")
	id := r.text("hold_id")
	deadline := time.NewTimer(time.Duration(r.number("expires_in_ms")) * time.Millisecond)
	<-deadline.C
	s.post("/holds/"+id+"/confirm", `{"payment_ref":"p"}`).want(t, "confirm after the deadline",
		410, "HOLD_EXPIRED")
	s.post("/holds/"+id+"/cancel", "").want(t, "cancel after the deadline", 410, "HOLD_EXPIRED")
}

// TestReadRoutes checks the answers from the read tables, for rows that exist and for
// rows that do not.
func TestReadRoutes(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.get("/holds/h1").want(t, "no such hold", 404, "UNKNOWN_HOLD")
	s.get("/orders/ord_h1").want(t, "no such order", 404, "UNKNOWN_ORDER")
	s.get("/orders?hold_id=h1").want(t, "no order of a hold", 404, "UNKNOWN_ORDER")
	s.get("/orders").want(t, "orders without a hold_id", 400, "INVALID_REQUEST")
	s.exec(`INSERT INTO holds VALUES ('h1', 'shirt', 2, 'ann', 'CONFIRMED', '2026-01-02T03:04:05Z', '2026-01-02T03:00:05Z', 'k1', 'main')`)
	s.exec(`INSERT INTO orders VALUES ('ord_h1', 'h1', 'ann', 'shirt', 2, 'CONFIRMED', 'p1', '2026-01-02T03:01:00Z', 'main')`)
	const hold = `{"hold_id":"h1","sku":"shirt","qty":2,"user_id":"ann","status":"CONFIRMED","expires_at":"2026-01-02T03:04:05Z","created_at":"2026-01-02T03:00:05Z","idempotency_key":"k1"}`
	if got := s.get("/holds/h1").raw; strings.TrimSpace(got) != hold {
		t.Errorf("hold: got %s, want %s", got, hold)
	}
	const order = `{"order_id":"ord_h1","hold_id":"h1","user_id":"ann","sku":"shirt","qty":2,"status":"CONFIRMED","payment_ref":"p1","created_at":"2026-01-02T03:01:00Z"}`
	for _, path := range []string{"/orders/ord_h1", "/orders?hold_id=h1"} {
		if got := s.get(path).raw; strings.TrimSpace(got) != order {
			t.Errorf("%s: got %s, want %s", path, got, order)
		}
	}
	s.exec(`UPDATE holds SET pool = 'eu'; UPDATE orders SET pool = 'eu'`)
	s.get("/holds/h1").want(t, "a hold of another pool", 404, "UNKNOWN_HOLD")
	s.get("/orders/ord_h1").want(t, "an order of another pool", 404, "UNKNOWN_ORDER")
	s.get("/orders?hold_id=h1").want(t, "an order of another pool's hold", 404, "UNKNOWN_ORDER")
	s.exec(`DROP TABLE holds`)
	s.get("/holds/h1").want(t, "a table that its projection has not created yet", 503, "NOT_READY")
}

// TestRequestIDAndTraceReachTheEvents checks that the client's request id and trace are
// stored with the events, and that a request id which is too long is not.
func TestRequestIDAndTraceReachTheEvents(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	s.redis.Set(s.ctx, "stock:shirt", 9, 0)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := s.post("/holds", reserveBody, "X-Request-Id", "req-7", "Traceparent", trace)
	r.wantHeader(t, "reserve", "X-Request-Id", "req-7")
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1), "X-Request-Id", strings.Repeat("x", 129))
	entries, err := s.redis.XRange(s.ctx, "inventory.events", "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Fatalf("got %d entries in the stream, want 3: %v", len(entries), entries)
	}
	got := entries[1].Values["metadata"]
	want := `{"correlation_id":"req-7","traceparent":"` + trace + `"}`
	if got != want {
		t.Errorf("metadata: got %s, want %s", got, want)
	}
	if got := entries[2].Values["metadata"]; got != "{}" {
		t.Errorf("metadata with a request id that is too long: got %s, want {}", got)
	}
}

// TestEveryCommandCodeHasAStatus checks that no code of package commands is answered with
// 500.
func TestEveryCommandCodeHasAStatus(t *testing.T) {
	t.Parallel()
	for _, code := range []string{
		"SOLD_OUT", "INSUFFICIENT_STOCK", "STOCK_LIMIT", "UNKNOWN_SKU", "UNKNOWN_HOLD", "HOLD_CONFIRMED",
		"HOLD_CANCELLED", "HOLD_EXPIRED",
		"IDEMPOTENCY_MISMATCH", "STATE_INVALID", "NOT_READY", "OTHER_SERVER", "STALE", "UNAVAILABLE",
	} {
		status := statuses[code]
		if status < 400 {
			t.Errorf("%s: got the status %d, want 400 or above", code, status)
		}
		if status == http.StatusInternalServerError {
			t.Errorf("%s: got the status 500", code)
		}
	}
}
