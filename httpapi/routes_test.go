package httpapi

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

const reserveBody = `{"sku":"shirt","qty":1,"user_id":"ann","idempotency_key":"k1"}`

// TestCommands goes through every route of the table that changes something, with the answers that it promises.
func TestCommands(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.post("/holds/reserve", reserveBody).want(t, "reserve before anything is stocked", 404, "UNKNOWN_SKU")

	r := s.post("/stock/shirt/adjustments", `{"delta":3,"reason":"delivery"}`, "Idempotency-Key", "a1")
	r.want(t, "adjust", 200, "")
	if r.text("sku") != "shirt" || r.number("available") != 3 || r.header.Get("Stockstream-Position") != "main:1" {
		t.Errorf("adjust: got %s with %v", r.raw, r.header)
	}

	first := s.post("/holds/reserve", reserveBody)
	first.want(t, "reserve", 201, "")
	id := first.text("hold_id")
	if first.header.Get("Location") != "/holds/"+id || first.header.Get("Stockstream-Position") != "main:2" || first.header.Get("Idempotency-Replayed") != "" ||
		first.text("sku") != "shirt" || first.number("qty") != 1 || first.text("user_id") != "ann" || first.text("status") != "ACTIVE" || first.number("expires_in_ms") != 300_000 {
		t.Errorf("reserve: got %s with %v", first.raw, first.header)
	}
	if at, err := time.Parse(time.RFC3339, first.text("expires_at")); err != nil || time.Until(at) > 5*time.Minute+time.Second || time.Until(at) < 4*time.Minute {
		t.Errorf("expires_at: got %s (%v)", first.text("expires_at"), err)
	}
	for _, path := range []string{"/holds/reserve", "/holds"} {
		again := s.post(path, `{"sku":"shirt","qty":1,"user_id":"ann"}`, "Idempotency-Key", `"k1"`)
		again.want(t, "reserve again at "+path, 201, "")
		if again.text("hold_id") != id || again.header.Get("Idempotency-Replayed") != "true" || again.header.Get("Stockstream-Position") != "main:2" {
			t.Errorf("again at %s: got %s with %v", path, again.raw, again.header)
		}
	}
	s.post("/holds", `{"sku":"shirt","qty":2,"user_id":"ann","idempotency_key":"k1"}`).want(t, "the key of another request", 422, "IDEMPOTENCY_MISMATCH")

	order := s.post("/holds/confirm", `{"hold_id":"`+id+`","payment_ref":"p1"}`)
	order.want(t, "confirm", 200, "")
	if order.text("order_id") != "ord_"+id || order.text("status") != "CONFIRMED" || order.text("payment_ref") != "p1" || order.header.Get("Stockstream-Position") != "main:3" {
		t.Errorf("confirm: got %s with %v", order.raw, order.header)
	}
	again := s.post("/holds/"+id+"/confirm", `{"payment_ref":"p1"}`)
	again.want(t, "confirm again", 200, "")
	if again.raw != order.raw || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("confirm again: got %s with %v", again.raw, again.header)
	}
	s.post("/holds/confirm", `{"hold_id":"`+id+`","payment_ref":"p2"}`).want(t, "confirm with another payment", 409, "HOLD_CONFIRMED")
	s.post("/holds/"+id+"/cancel", "").want(t, "cancel an order", 409, "HOLD_CONFIRMED")

	second := s.post("/holds", `{"sku":"shirt","qty":2,"user_id":"bob","ttl_seconds":60}`, "Idempotency-Key", "k2")
	second.want(t, "reserve the rest", 201, "")
	soldOut := s.post("/holds", `{"sku":"shirt","qty":1,"user_id":"eve"}`, "Idempotency-Key", "k3")
	soldOut.want(t, "reserve what is gone", 409, "SOLD_OUT")
	if soldOut.text("title") != "SOLD OUT" || soldOut.body["available"] != float64(0) {
		t.Errorf("sold out: got %s, want the title SOLD OUT and available 0", soldOut.raw)
	}
	for i, replayed := range []string{"", "true"} {
		cancelled := s.post("/holds/cancel", `{"hold_id":"`+second.text("hold_id")+`"}`)
		cancelled.want(t, "cancel", 200, "")
		if cancelled.text("status") != "CANCELLED" || cancelled.header.Get("Idempotency-Replayed") != replayed {
			t.Errorf("cancel, time %d: got %s with %v", i+1, cancelled.raw, cancelled.header)
		}
	}
	s.post("/holds/"+second.text("hold_id")+"/confirm", `{"payment_ref":"p"}`).want(t, "confirm what was cancelled", 409, "HOLD_CANCELLED")
	s.post("/holds/none/confirm", `{"payment_ref":"p"}`).want(t, "confirm nothing", 404, "UNKNOWN_HOLD")
	s.post("/holds/none/cancel", `{}`).want(t, "cancel nothing", 404, "UNKNOWN_HOLD")
	s.post("/stock/shirt/adjustments", `{"delta":-3,"reason":"broken","idempotency_key":"a2"}`).want(t, "take away too much", 409, "INSUFFICIENT_STOCK")
	live := s.get("/stock/shirt")
	live.want(t, "look at the stock", 200, "")
	if live.number("available") != 2 {
		t.Errorf("stock: got %s, want 2", live.raw)
	}
	s.get("/stock/sock").want(t, "look at an unknown SKU", 404, "UNKNOWN_SKU")
}

// TestDeadline holds that after the deadline nothing but the expiry is possible, whether or not the saga has come by.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 1, 0)
	r := s.post("/holds", `{"sku":"shirt","qty":1,"user_id":"ann","ttl_seconds":1,"idempotency_key":"k"}`)
	r.want(t, "reserve for a second", 201, "")
	id := r.text("hold_id")
	deadline := time.NewTimer(time.Until(time.Now().Add(time.Duration(r.number("expires_in_ms")) * time.Millisecond)))
	<-deadline.C
	s.post("/holds/"+id+"/confirm", `{"payment_ref":"p"}`).want(t, "confirm too late", 410, "HOLD_EXPIRED")
	s.post("/holds/"+id+"/cancel", "").want(t, "cancel too late", 410, "HOLD_EXPIRED")
}

// TestReads holds what the read tables are answered as.
func TestReads(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.get("/holds/h1").want(t, "no such hold", 404, "UNKNOWN_HOLD")
	s.get("/orders/ord_h1").want(t, "no such order", 404, "UNKNOWN_ORDER")
	s.get("/orders?hold_id=h1").want(t, "no order of a hold", 404, "UNKNOWN_ORDER")
	s.get("/orders").want(t, "orders of no hold", 400, "INVALID_REQUEST")
	s.get("/holds/%00%ff").want(t, "an id that is none", 404, "UNKNOWN_HOLD")
	s.project(`INSERT INTO holds VALUES ('h1', 'shirt', 2, 'ann', 'CONFIRMED', '2026-01-02T03:04:05Z', '2026-01-02T03:00:05Z', 'k1')`)
	s.project(`INSERT INTO orders VALUES ('ord_h1', 'h1', 'ann', 'shirt', 2, 'CONFIRMED', 'p1', '2026-01-02T03:01:00Z')`)
	if got, want := s.get("/holds/h1").raw, `{"hold_id":"h1","sku":"shirt","qty":2,"user_id":"ann","status":"CONFIRMED","expires_at":"2026-01-02T03:04:05Z","created_at":"2026-01-02T03:00:05Z","idempotency_key":"k1"}`; strings.TrimSpace(got) != want {
		t.Errorf("hold: got %s, want %s", got, want)
	}
	const order = `{"order_id":"ord_h1","hold_id":"h1","user_id":"ann","sku":"shirt","qty":2,"status":"CONFIRMED","payment_ref":"p1","created_at":"2026-01-02T03:01:00Z"}`
	for _, path := range []string{"/orders/ord_h1", "/orders?hold_id=h1"} {
		if got := s.get(path).raw; strings.TrimSpace(got) != order {
			t.Errorf("%s: got %s, want %s", path, got, order)
		}
	}
	s.project(`DROP TABLE holds`)
	s.get("/holds/h1").want(t, "a table that no projection has made yet", 503, "NOT_READY")
}

// TestCorrelation holds that a client's ids travel into the events, and that odd ones do not.
func TestCorrelation(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.redis.Set(s.ctx, "stock:shirt", 9, 0)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := s.post("/holds", reserveBody, "X-Request-Id", "req-7", "Traceparent", trace)
	if r.header.Get("X-Request-Id") != "req-7" {
		t.Errorf("the request id did not come back: %v", r.header)
	}
	s.post("/holds", strings.Replace(reserveBody, "k1", "k2", 1), "X-Request-Id", strings.Repeat("x", 129))
	entries, err := s.redis.XRange(s.ctx, "inventory.events", "-", "+").Result()
	if err != nil || len(entries) != 3 {
		t.Fatal(entries, err)
	}
	if got, want := entries[1].Values["metadata"], `{"correlation_id":"req-7","traceparent":"`+trace+`"}`; got != want {
		t.Errorf("metadata: got %s, want %s", got, want)
	}
	if got := entries[2].Values["metadata"]; got != "{}" {
		t.Errorf("metadata of an odd request id: got %s, want {}", got)
	}
}

// TestEveryCodeHasAStatus holds that no refusal of the commands becomes a 500.
func TestEveryCodeHasAStatus(t *testing.T) {
	t.Parallel()
	for _, code := range []string{
		"SOLD_OUT", "INSUFFICIENT_STOCK", "STOCK_LIMIT", "UNKNOWN_SKU", "UNKNOWN_HOLD", "HOLD_CONFIRMED", "HOLD_CANCELLED", "HOLD_EXPIRED",
		"IDEMPOTENCY_MISMATCH", "STATE_INVALID", "NOT_READY", "STALE", "UNAVAILABLE",
	} {
		if status := statuses[code]; status < 400 || status == http.StatusInternalServerError {
			t.Errorf("%s: got the status %d", code, status)
		}
	}
}
