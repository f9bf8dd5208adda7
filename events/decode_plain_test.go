package events

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// examples are payloads of each type, of the kind that readPlain is for.
var examples = map[Type][]string{
	TypeStockAdjusted: {`{"v": 2, "sku": "shirt", "delta": -5, "reason": "broken", "idempotency_key": ""}`},
	TypeHoldCreated:   {`{"qty":1,"sku":"größe","ttl_ms":300000,"hold_id":"h1","user_id":"ann","idempotency_key":"k"}`},
	TypeHoldConfirmed: {`{"hold_id":"h1","sku":"shirt","qty":10,"user_id":"ann","payment_ref":"p"}`},
	TypeHoldCancelled: {` { "hold_id" : "h1" , "sku":"shirt","qty":0,"user_id":"", "reason":"expired" } `},
}

// TestGoldenPayloadsArePlain holds that what this build writes takes the short way. Older versions need not: fields that
// they had may be gone.
func TestGoldenPayloadsArePlain(t *testing.T) {
	t.Parallel()
	for _, eventType := range Types() {
		payload := goldenPayload(t, eventType, LatestVersion(eventType))
		if _, plain := readPlain(payload, newEvent(eventType)); !plain {
			t.Errorf("%s takes the long way, at a fifth of the speed: fieldOf lacks one of its fields", payload)
		}
	}
}

// TestPlainReadsAsJSON holds that whatever is taken for plain is what encoding/json makes of it. The payloads are
// examples with pieces put in and taken out.
func TestPlainReadsAsJSON(t *testing.T) {
	t.Parallel()
	pieces := []string{``, `"`, `\`, `{`, `}`, `,`, `:`, `-`, `0`, `7`, `.5`, `e3`, `null`, `true`, ` `, "\t", "\x00", "\xff", `é`, `[]`, `"v":3,`, `"v":0,`,
		`"v":-1,`, `"sku":"x",`, `"SKU":"x",`, `"more":1,`, `\u0041`, `99999999999999999999`, `999999999999999999`, `01`}
	read := 0
	rapid.Check(t, func(rt *rapid.T) {
		eventType := rapid.SampledFrom([]Type{TypeStockAdjusted, TypeHoldCreated, TypeHoldConfirmed, TypeHoldCancelled}).Draw(rt, "type")
		payload := rapid.SampledFrom(examples[eventType]).Draw(rt, "example")
		for range rapid.IntRange(0, 2).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(payload)).Draw(rt, "at")
			cut := rapid.IntRange(0, min(2, len(payload)-at)).Draw(rt, "cut")
			payload = payload[:at] + rapid.SampledFrom(pieces).Draw(rt, "piece") + payload[at+cut:]
		}
		got, want := newEvent(eventType), newEvent(eventType)
		version, plain := readPlain([]byte(payload), got)
		if !plain {
			return
		}
		read++
		if err := json.Unmarshal([]byte(payload), want); err != nil {
			rt.Fatalf("%q was read, and is refused by encoding/json: %v", payload, err)
		}
		if wantVersion := want.takeVersion(); version != wantVersion || !reflect.DeepEqual(got, want) {
			rt.Fatalf("%q: got %+v of version %d, want %+v of version %d", payload, got, version, want, wantVersion)
		}
	})
	if read == 0 {
		t.Error("no payload was plain; that shows nothing")
	}
}

func BenchmarkDecode(b *testing.B) {
	payload := []byte(examples[TypeHoldCreated][0])
	for b.Loop() {
		if _, err := Decode(TypeHoldCreated, payload); err != nil {
			b.Fatal(err)
		}
	}
}

// TestOddPayloadsAreNotPlain holds what is left to encoding/json.
func TestOddPayloadsAreNotPlain(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		``, `null`, `[]`, `{`, `{"delta":1`, `{"delta":1,}`, `{"delta":1}{}`, `{"delta":1} x`, `{"delta" 1}`, `{delta:1}`, `{"delta":1 "sku":"a"}`,
		`{"delta":01}`, `{"delta":-}`, `{"delta":- 1}`, `{"delta":1.5}`, `{"delta":1e3}`, `{"delta":"1"}`, `{"delta":null}`, `{"delta":9999999999999999999}`,
		`{"sku":1}`, `{"sku":"a}`, `{"sku":"a\n"}`, "{\"sku\":\"a\n\"}", "{\"sku\":\"\xff\"}", `{"sku":{"a":1}}`,
		`{"v":0}`, `{"v":-1}`, `{"v":"2"}`, `{"SKU":"a"}`, `{"more":1}`, `{"more":"1"}`,
	} {
		if version, plain := readPlain([]byte(payload), new(StockAdjusted)); plain {
			t.Errorf("%q was read, as of version %d", payload, version)
		}
	}
}
