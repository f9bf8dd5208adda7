package events

import (
	"encoding/json"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// examples are payloads of each type that readPlain can read, before a test changes them.
var examples = map[Type][]string{
	TypeStockAdjusted: {`{"v": 2, "sku": "shirt", "delta": -5, "reason": "broken", "idempotency_key": ""}`},
	TypeHoldCreated:   {`{"qty":1,"sku":"größe","ttl_ms":300000,"hold_id":"h1","user_id":"ann","idempotency_key":"k"}`},
	TypeHoldConfirmed: {`{"hold_id":"h1","sku":"shirt","qty":10,"user_id":"ann","payment_ref":"p"}`},
	TypeHoldCancelled: {` { "hold_id" : "h1" , "sku":"shirt","qty":0,"user_id":"", "reason":"expired" } `},
}

// TestLatestPayloadsArePlain checks that readPlain, the fast path, can read every payload
// that this build writes. It need not read those of older versions, which may have fields
// that no longer exist.
func TestLatestPayloadsArePlain(t *testing.T) {
	t.Parallel()
	for _, eventType := range Types() {
		payload := goldenPayload(t, eventType, LatestVersion(eventType))
		if _, plain := readPlain(payload, newEvent(eventType)); !plain {
			t.Errorf("%s: got it read by encoding/json, at a fifth of the speed, want it read by readPlain: "+
				"fieldOf lacks one of its fields", payload)
		}
	}
}

// TestReadPlainAgreesWithJSON checks that readPlain, if it reads a payload at all, reads
// the same event as encoding/json. The payloads are examples with random pieces inserted
// and removed.
func TestReadPlainAgreesWithJSON(t *testing.T) {
	t.Parallel()
	pieces := []string{
		``, `"`, `\`, `{`, `}`, `,`, `:`, `-`, `0`, `7`, `.5`, `e3`, `null`, `true`, ` `, "\t", "\x00", "\xff", `é`,
		`[]`, `"v":3,`, `"v":0,`, `"v":-1,`, `"sku":"x",`, `"SKU":"x",`, `"more":1,`, `\u0041`,
		`99999999999999999999`, `999999999999999999`, `01`,
	}
	types := []Type{TypeStockAdjusted, TypeHoldCreated, TypeHoldConfirmed, TypeHoldCancelled}
	plainPayloads := 0
	rapid.Check(t, func(rt *rapid.T) {
		eventType := rapid.SampledFrom(types).Draw(rt, "type")
		payload := rapid.SampledFrom(examples[eventType]).Draw(rt, "example")
		for range rapid.IntRange(0, 2).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(payload)).Draw(rt, "at")
			cut := rapid.IntRange(0, min(2, len(payload)-at)).Draw(rt, "cut")
			payload = payload[:at] + rapid.SampledFrom(pieces).Draw(rt, "piece") + payload[at+cut:]
		}
		got := newEvent(eventType)
		version, plain := readPlain([]byte(payload), got)
		if !plain {
			return
		}
		plainPayloads++
		want := newEvent(eventType)
		if err := json.Unmarshal([]byte(payload), want); err != nil {
			rt.Fatalf("%q: got it read by readPlain, but encoding/json refuses it: %v", payload, err)
		}
		if wantVersion := want.takeVersion(); version != wantVersion {
			rt.Fatalf("%q: got version %d, want %d", payload, version, wantVersion)
		}
		if !reflect.DeepEqual(got, want) {
			rt.Fatalf("%q: got %+v, want %+v", payload, got, want)
		}
	})
	if plainPayloads == 0 {
		t.Error("payloads that readPlain read: got none, so the test has shown nothing")
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

// TestReadPlainLeavesUnusualPayloadsToJSON checks that readPlain reads no payload that is
// malformed, or that only encoding/json reads correctly.
func TestReadPlainLeavesUnusualPayloadsToJSON(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{
		``, `null`, `[]`, `{`, `{"delta":1`, `{"delta":1,}`, `{"delta":1}{}`, `{"delta":1} x`, `{"delta" 1}`,
		`{delta:1}`, `{"delta":1 "sku":"a"}`,
		`{"delta":01}`, `{"delta":-}`, `{"delta":- 1}`, `{"delta":1.5}`, `{"delta":1e3}`, `{"delta":"1"}`,
		`{"delta":null}`, `{"delta":9999999999999999999}`,
		`{"sku":1}`, `{"sku":"a}`, `{"sku":"a\n"}`, "{\"sku\":\"a\n\"}", "{\"sku\":\"\xff\"}", `{"sku":{"a":1}}`,
		`{"v":0}`, `{"v":-1}`, `{"v":"2"}`, `{"SKU":"a"}`, `{"more":1}`, `{"more":"1"}`,
	} {
		if version, plain := readPlain([]byte(payload), new(StockAdjusted)); plain {
			t.Errorf("%q: got it read as version %d, want it left to encoding/json", payload, version)
		}
	}
}
