package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const goldenHold = "0198c0de-0000-7000-8000-000000000001"

// versions are all that were ever written: the fields of each, and what its golden file is read as. Streams and journals
// hold such payloads, so a line here and its file in testdata never change; a new shape is a new line and a new file.
var versions = []struct {
	event   Event // what testdata/<TYPE>.v<version>.json is read as
	version int
	shape   string // in the order in which the fields are written
}{
	{&StockAdjusted{SKU: "iphone_15_pro_256", Delta: -3, Reason: "damaged"}, 1, "sku string, delta int64, reason string"},
	{
		&StockAdjusted{SKU: "iphone_15_pro_256", Delta: -3, Reason: "damaged", IdempotencyKey: "count-12"}, 2,
		"sku string, delta int64, reason string, idempotency_key string",
	},
	{
		&HoldCreated{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", TTLMs: 300_000, IdempotencyKey: "order-77"}, 1,
		"hold_id string, sku string, qty int64, user_id string, ttl_ms int64, idempotency_key string",
	},
	{
		&HoldConfirmed{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", PaymentRef: "pay_9"}, 1,
		"hold_id string, sku string, qty int64, user_id string, payment_ref string",
	},
	{
		&HoldCancelled{HoldID: goldenHold, SKU: "iphone_15_pro_256", Qty: 2, UserID: "u1", Reason: "expired"}, 1,
		"hold_id string, sku string, qty int64, user_id string, reason string",
	},
}

// golden are the events of versions that this build writes: the latest version of each type.
var golden = latestEvents()

func latestEvents() (latest []Event) {
	for _, h := range versions {
		if h.version == LatestVersion(h.event.Type()) {
			latest = append(latest, h.event)
		}
	}
	return latest
}

func goldenPayload(t testing.TB, eventType Type, version int) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", eventType, version)))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(file)
}

// TestGolden holds that every version ever written has its golden file and is read, and that the latest is written as
// its file has it, byte for byte.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(versions) {
		t.Fatalf("testdata has %d files (%v), want one for each of %d versions", len(files), err, len(versions))
	}
	written := map[Type]int{}
	for _, h := range versions {
		eventType := h.event.Type()
		if written[eventType]++; written[eventType] != h.version {
			t.Errorf("%s: version %d comes after version %d", eventType, h.version, written[eventType]-1)
		}
		payload := goldenPayload(t, eventType, h.version)
		if got, err := Decode(eventType, payload); err != nil || !reflect.DeepEqual(got, h.event) {
			t.Errorf("decode %s.v%d: got %+v (%v), want %+v", eventType, h.version, got, err, h.event)
		}
		if got := VersionOf(payload); got != h.version {
			t.Errorf("%s.v%d says that it is of version %d", eventType, h.version, got)
		}
		if h.version != LatestVersion(eventType) {
			continue
		}
		if encoded, err := json.Marshal(h.event); err != nil || !bytes.Equal(encoded, payload) {
			t.Errorf("encode %s: got %s (%v), want %s", eventType, encoded, err, payload)
		}
	}
	for _, eventType := range Types() {
		if written[eventType] != LatestVersion(eventType) {
			t.Errorf("%s: upcast.go says that the latest version is %d, and %d have a golden file", eventType, LatestVersion(eventType), written[eventType])
		}
	}
	if len(written) != len(Types()) {
		t.Errorf("golden files are of %d types, want %d", len(written), len(Types()))
	}
}

// TestShapes holds that a payload does not change without a new version: the struct has the fields of the latest, and
// every golden file those of its own. All are set in the files, so that no zero value hides one.
func TestShapes(t *testing.T) {
	t.Parallel()
	for _, h := range versions {
		eventType := h.event.Type()
		if h.version == LatestVersion(eventType) {
			if got := shapeOf(reflect.TypeOf(h.event).Elem()); got != h.shape {
				t.Errorf("%s has become (%s), and version %d is (%s): a new shape is a new version, see docs/how-to-change-an-event.md", eventType, got, h.version, h.shape)
			}
		}
		var fields map[string]any
		if err := json.Unmarshal(goldenPayload(t, eventType, h.version), &fields); err != nil {
			t.Fatal(err)
		}
		delete(fields, "v")
		for _, field := range strings.Split(h.shape, ", ") {
			name, kind, _ := strings.Cut(field, " ")
			value, there := fields[name]
			_, isText := value.(string)
			if !there || isText != (kind == "string") || value == "" || value == 0.0 {
				t.Errorf("%s.v%d: the field %s is %v, want one of kind %s that is set", eventType, h.version, name, value, kind)
			}
			delete(fields, name)
		}
		if len(fields) > 0 {
			t.Errorf("%s.v%d has fields that its shape has not: %v", eventType, h.version, fields)
		}
	}
}

// shapeOf lists a struct's fields as they are on the wire.
func shapeOf(t reflect.Type) string {
	var fields []string
	for i := range t.NumField() {
		if f := t.Field(i); f.Name != "versioned" {
			fields = append(fields, f.Tag.Get("json")+" "+f.Type.String())
		}
	}
	return strings.Join(fields, ", ")
}

// TestDecodeRefuses holds that what merely parses is not an event.
func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	payloads := []string{
		`null`, `{}`, `[]`, `"x"`, `{"sku":1}`, `{"hold_id":"h"}`, `{`, ``, `{"hold_id":"h","sku":"","qty":0}`, `{"sku":"s","delta":1.5,"qty":1.5}`, `{"v":1}`,
	}
	whole := `"hold_id":"h","sku":"s","qty":1,"delta":1,"reason":"r"}`
	for _, version := range []string{`-1`, `"1"`, `"x"`, `1.5`, `[]`, `true`, `1e99`} {
		payloads = append(payloads, `{"v":`+version+`,`+whole)
	}
	for _, payload := range payloads {
		for _, event := range golden {
			got, err := Decode(event.Type(), []byte(payload))
			if newer := new(NewerVersionError); err == nil || errors.As(err, &newer) {
				t.Errorf("%s of %s: got %+v (%v), want an error that blames the payload", event.Type(), payload, got, err)
			}
		}
	}
	for _, payload := range []string{`{` + whole, `{"v":1,` + whole} {
		for _, event := range golden {
			if _, err := Decode(event.Type(), []byte(payload)); err != nil {
				t.Errorf("%s of %s: %v", event.Type(), payload, err)
			}
		}
	}
	var unknown *UnknownTypeError
	if _, err := Decode("HOLD_TRANSFERRED", []byte(`{}`)); !errors.As(err, &unknown) || unknown.Type != "HOLD_TRANSFERRED" || Known("HOLD_TRANSFERRED") {
		t.Errorf("a type of a newer version: got %v, want UnknownTypeError", err)
	}
}

// TestDecodeNewer holds that a payload of a later version is told from a broken one, whatever has become of its fields.
func TestDecodeNewer(t *testing.T) {
	t.Parallel()
	for _, event := range golden {
		latest := LatestVersion(event.Type())
		for _, fields := range []string{``, `,"sku":"s","qty":1,"hold_id":"h"`, `,"sku":{"id":7},"delta":"many","qty":[1]`} {
			payload := fmt.Sprintf(`{"v":%d%s}`, latest+1, fields)
			var newer *NewerVersionError
			if _, err := Decode(event.Type(), []byte(payload)); !errors.As(err, &newer) || *newer != (NewerVersionError{Type: event.Type(), Version: latest + 1, Latest: latest}) {
				t.Errorf("%s of %s: got %v, want NewerVersionError", event.Type(), payload, err)
			}
		}
	}
}

// TestUpcastSteps holds that a payload takes every step from its own version on, in order, and that one which a step
// cannot make sense of is refused rather than guessed.
func TestUpcastSteps(t *testing.T) {
	const renamed Type = TypeHoldCancelled // as if its history had been longer; this test is alone with it
	upcasters[renamed] = []upcaster{
		func(p map[string]json.RawMessage) error { p["quantity"] = p["count"]; delete(p, "count"); return nil },
		func(p map[string]json.RawMessage) error {
			if p["quantity"] == nil {
				return errors.New("no quantity")
			}
			p["qty"] = p["quantity"]
			delete(p, "quantity")
			return nil
		},
	}
	defer delete(upcasters, renamed)
	for payload, qty := range map[string]int64{
		`{"hold_id":"h","sku":"s","count":1}`:          1,
		`{"hold_id":"h","sku":"s","count":2,"v":1}`:    2,
		`{"v":2,"hold_id":"h","sku":"s","quantity":3}`: 3,
		`{"v":3,"hold_id":"h","sku":"s","qty":4}`:      4,
	} {
		event, err := Decode(renamed, []byte(payload))
		if want := (&HoldCancelled{HoldID: "h", SKU: "s", Qty: qty}); err != nil || !reflect.DeepEqual(event, want) {
			t.Errorf("%s: got %+v (%v), want %+v", payload, event, err, want)
		}
	}
	if _, err := Decode(renamed, []byte(`{"v":2,"hold_id":"h","sku":"s"}`)); err == nil || !strings.Contains(err.Error(), "bring version 2 to 3: no quantity") {
		t.Errorf("a step that refuses: got %v", err)
	}
}

// FuzzDecode holds that no bytes at all make Decode panic, and that what it takes for an event is one: written again,
// it is read as the same.
func FuzzDecode(f *testing.F) {
	for _, h := range versions {
		f.Add(string(h.event.Type()), goldenPayload(f, h.event.Type(), h.version))
	}
	f.Add("STOCK_ADJUSTED", []byte(`{"v":1,"V":2,"sku":"s"}`))
	f.Add("STOCK_ADJUSTED", []byte(`{"v":-9223372036854775808,"sku":"s"}`))
	f.Add("HOLD_CREATED", []byte(`{"v":99,"hold_id":"\ud800"}`))
	f.Add("", []byte("\xff"))
	f.Fuzz(func(t *testing.T, eventType string, payload []byte) {
		event, err := Decode(Type(eventType), payload)
		if err != nil {
			return
		}
		if event.Type() != Type(eventType) {
			t.Fatalf("%s of %q: got %+v", eventType, payload, event)
		}
		encoded, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(event.Type(), encoded)
		if err != nil || !reflect.DeepEqual(again, event) {
			t.Errorf("%q was read as %+v, and written again as %+v (%v)", payload, event, again, err)
		}
	})
}
