package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// golden is what the files in testdata say, in Go. The files are what streams and journals hold: they never change.
var golden = []Event{
	&StockAdjusted{SKU: "iphone_15_pro_256", Delta: -3, Reason: "damaged"},
	&HoldCreated{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", TTLMs: 300_000, IdempotencyKey: "order-77"},
	&HoldConfirmed{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", PaymentRef: "pay_9"},
	&HoldCancelled{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", Reason: "expired"},
}

const goldenHold = "0198c0de-0000-7000-8000-000000000001"

// TestGolden holds the wire form of every event, both ways.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(golden) {
		t.Fatalf("testdata has %d files (%v), want one for each of %d types", len(files), err, len(golden))
	}
	for _, want := range golden {
		file, err := os.ReadFile(filepath.Join("testdata", string(want.Type())+".json"))
		if err != nil {
			t.Fatal(err)
		}
		payload := bytes.TrimSpace(file)
		got, err := Decode(want.Type(), payload)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("decode %s: got %+v (%v), want %+v", want.Type(), got, err, want)
		}
		encoded, err := json.Marshal(want)
		if err != nil || !bytes.Equal(encoded, payload) {
			t.Errorf("encode %s: got %s (%v), want %s", want.Type(), encoded, err, payload)
		}
		if !Known(want.Type()) {
			t.Errorf("%s is not known", want.Type())
		}
	}
}

// TestDecodeRefuses holds that what merely parses is not an event.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`null`, `{}`, `[]`, `"x"`, `{"sku":1}`, `{"hold_id":"h"}`, `{`, ``, `{"hold_id":"h","sku":"","qty":0}`, `{"sku":"s","delta":1.5,"qty":1.5}`} {
		for _, event := range golden {
			if got, err := Decode(event.Type(), []byte(payload)); err == nil {
				t.Errorf("%s of %s: got %+v, want an error", event.Type(), payload, got)
			}
		}
	}
	var unknown *UnknownTypeError
	if _, err := Decode("HOLD_TRANSFERRED", []byte(`{}`)); !errors.As(err, &unknown) || unknown.Type != "HOLD_TRANSFERRED" || Known("HOLD_TRANSFERRED") {
		t.Errorf("a type of a newer version: got %v, want UnknownTypeError", err)
	}
}

// TestNames holds the names that operators and other programs rely on.
func TestNames(t *testing.T) {
	t.Parallel()
	eu := Pool{name: "eu", prefix: "{eu}:"}
	for got, want := range map[string]string{
		MainPool.StockKey("a"): "stock:a", MainPool.HoldKey("h"): "hold:h", MainPool.IdempotencyKey("k"): "idem:k",
		MainPool.DueKey(): "holds:due", MainPool.MetaKey(): "inventory.meta", MainPool.StreamKey(): "inventory.events",
		eu.StockKey("a"): "{eu}:stock:a", eu.StreamKey(): "{eu}:inventory.events", ConsumerGroup: "inventory.cg",
		Position{Pool: "main", Seq: 42}.String(): "main:42", OrderID("h"): "ord_h",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if p, err := ParsePosition("main:42"); p != (Position{Pool: "main", Seq: 42}) || err != nil {
		t.Errorf("position: got %v (%v)", p, err)
	}
	for _, bad := range []string{"", "main", "main:", ":1", "main:-1", "main:x", "main:1:2"} {
		if p, err := ParsePosition(bad); err == nil {
			t.Errorf("position %q: got %v, want an error", bad, p)
		}
	}
}
