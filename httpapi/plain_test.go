package httpapi

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/internal/plainjson"
)

// TestReserveRequestPlain checks that plainjson reads a request as encoding/json does, and that field knows every field.
func TestReserveRequestPlain(t *testing.T) {
	t.Parallel()
	const whole = `{"sku":"shirt","qty":2,"user_id":"ann","ttl_seconds":60,"idempotency_key":"k1"}`
	for body, isPlain := range map[string]bool{
		whole: true, `{}`: true, `{"qty" : -1 ,"qty" : 3}`: true, `{"sku":"größe","ttl_seconds":0}`: true,
		strings.ToUpper(whole): false, `{"ttl_seconds":null}`: false, `{"ttl_seconds":5,"ttl_seconds":null}`: false, `{"sku":"a\n"}`: false,
		`{"sku":"a","more":1}`: false, `{"qty":1e2}`: false,
	} {
		var got, want ReserveRequest
		if plain := plainjson.Read([]byte(body), got.field); plain != isPlain {
			t.Errorf("%s: plain %v, want %v", body, plain, isPlain)
		} else if !plain { // encoding/json overwrites the fields that plainjson has set
			_ = json.Unmarshal([]byte(body), &got)
		}
		if err := json.Unmarshal([]byte(body), &want); err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", body, got, want)
		}
	}
	var all ReserveRequest
	plainjson.Read([]byte(whole), all.field)
	for field, value := range reflect.ValueOf(all).Fields() {
		if value.IsZero() {
			t.Errorf("ReserveRequest.field does not know the field %s", field.Name)
		}
	}
}

// TestReserveAnswerPlain checks that plain writes the same bytes as encoding/json.
func TestReserveAnswerPlain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ -~é]{0,20}`)
		answer := ReserveAnswer{
			HoldID: text.Draw(t, "id"), SKU: text.Draw(t, "sku"), Qty: rapid.Int64().Draw(t, "qty"), UserID: text.Draw(t, "user"), Status: text.Draw(t, "status"),
			ExpiresAt: time.UnixMilli(rapid.Int64Range(0, 1<<42).Draw(t, "at")).UTC(), ExpiresInMs: rapid.Int64().Draw(t, "in"),
		}
		want, err := json.Marshal(answer)
		if got := string(answer.plain()); got != string(want) || err != nil {
			t.Fatalf("got %s, want %s (%v)", got, want, err)
		}
	})
}
