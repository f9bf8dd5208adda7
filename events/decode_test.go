package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// payloadExamples are payloads as this build writes them, or as Postgres returns them.
var payloadExamples = map[Type]string{
	TypeStockAdjusted: `{"v": 2, "sku": "shirt", "delta": -5, "reason": "broken", "idempotency_key": ""}`,
	TypeHoldCreated:   `{"qty":1,"sku":"größe","ttl_ms":300000,"hold_id":"h1","user_id":"ann","idempotency_key":"k"}`,
	TypeHoldConfirmed: `{"hold_id":"h1","sku":"shirt","qty":10,"user_id":"ann","payment_ref":"p"}`,
	TypeHoldCancelled: ` { "hold_id" : "h1" , "sku":"shirt","qty":3,"user_id":"", "reason":"expired" } `,
}

// payloadPieces are put into an example to spoil it, or to leave it valid but unusual.
var payloadPieces = []string{
	``, `"`, `\`, `{`, `}`, `,`, `:`, `-`, `0`, `7`, `.5`, `e3`, `null`, `true`, `[]`, ` `, "\t", "\x00",
	"\xff",
	`é`, `\u0041`, `\ud83d\ude00`, `\ud800`, `01`, `999999999999999999`, `99999999999999999999`,
	`"v":3,`, `"v":1,`, `"v":0,`, `"v":-1,`, `"v":"2",`, `"v":1.5,`, `"v":null,`,
	`"sku":"x",`, `"SKU":"x",`, `"sku":null,`, `"sku":7,`, `"qty":1.0,`, `"qty":1e2,`,
	`"more":{"a":[1,"b",null]},`,
}

// TestDecodeReadsAsEncodingJSON checks that the library that Decode uses accepts the
// payloads that encoding/json accepts, reads the same from them, and fails in the same
// way.
func TestDecodeReadsAsEncodingJSON(t *testing.T) {
	t.Parallel()
	decoded, failed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		for range 10 {
			eventType := rapid.SampledFrom(Types()).Draw(rt, "type")
			payload := payloadExamples[eventType]
			for range rapid.IntRange(0, 2).Draw(rt, "changes") {
				at := rapid.IntRange(0, len(payload)).Draw(rt, "at")
				cut := rapid.IntRange(0, min(2, len(payload)-at)).Draw(rt, "cut")
				payload = payload[:at] + rapid.SampledFrom(payloadPieces).Draw(rt, "piece") + payload[at+cut:]
			}
			got, err := Decode(eventType, []byte(payload))
			want, wantErr := decodeWithEncodingJSON(eventType, []byte(payload))
			if kindOf(err) != kindOf(wantErr) {
				rt.Fatalf("%q: got the error %v, want %v", payload, err, wantErr)
			}
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("%q: got %+v, want %+v", payload, got, want)
			}
			if err == nil {
				decoded++
			} else {
				failed++
			}
		}
	})
	if decoded == 0 || failed == 0 {
		t.Errorf("%d payloads were decoded and %d failed, want some of both", decoded, failed)
	}
}

// decodeWithEncodingJSON does what Decode does, one step after the other, with the
// standard library.
func decodeWithEncodingJSON(t Type, payload []byte) (Event, error) {
	event := newEvent(t)
	err := json.Unmarshal(payload, event)
	version := event.takeVersion()
	if latest := LatestVersion(t); version > latest {
		return nil, &NewerVersionError{Type: t, Version: version, Latest: latest}
	} else if version < latest {
		event = newEvent(t)
		if payload, err = upcast(t, version, payload); err == nil {
			err = json.Unmarshal(payload, event)
			event.takeVersion()
		}
	}
	if err == nil {
		err = check(event)
	}
	if err != nil {
		return nil, err
	}
	return event, nil
}

// kindOf returns what a caller of Decode can tell from its error.
func kindOf(err error) string {
	var newer *NewerVersionError
	switch {
	case err == nil:
		return "none"
	case errors.As(err, &newer):
		return fmt.Sprintf("version %d", newer.Version)
	}
	return "other"
}

func BenchmarkDecode(b *testing.B) {
	payload := []byte(payloadExamples[TypeHoldCreated])
	for b.Loop() {
		if _, err := Decode(TypeHoldCreated, payload); err != nil {
			b.Fatal(err)
		}
	}
}
