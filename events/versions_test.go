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

// versions lists every version of a payload that was ever written. Streams and journals
// still hold such payloads, so neither an element here nor its file in testdata ever
// changes: a new shape is a new element and a new file.
var versions = []struct {
	event   Event // the event that testdata/<TYPE>.v<version>.json is read as
	version int
	shape   string // the fields and their Go types, in the order in which they are written
}{
	{
		event:   &StockAdjusted{SKU: "iphone_15_pro_256", Delta: -3, Reason: "damaged"},
		version: 1,
		shape:   "sku string, delta int64, reason string",
	},
	{
		event: &StockAdjusted{
			SKU:            "iphone_15_pro_256",
			Delta:          -3,
			Reason:         "damaged",
			IdempotencyKey: "count-12",
		},
		version: 2,
		shape:   "sku string, delta int64, reason string, idempotency_key string",
	},
	{
		event: &HoldCreated{
			HoldID:         goldenHold,
			SKU:            "iphone_15_pro_256",
			Qty:            2,
			UserID:         "u1",
			TTLMs:          300_000,
			IdempotencyKey: "order-77",
		},
		version: 1,
		shape:   "hold_id string, sku string, qty int64, user_id string, ttl_ms int64, idempotency_key string",
	},
	{
		event: &HoldConfirmed{
			HoldID:     goldenHold,
			SKU:        "iphone_15_pro_256",
			Qty:        2,
			UserID:     "u1",
			PaymentRef: "pay_9",
		},
		version: 1,
		shape:   "hold_id string, sku string, qty int64, user_id string, payment_ref string",
	},
	{
		event: &HoldCancelled{
			HoldID: goldenHold,
			SKU:    "iphone_15_pro_256",
			Qty:    2,
			UserID: "u1",
			Reason: "expired",
		},
		version: 1,
		shape:   "hold_id string, sku string, qty int64, user_id string, reason string",
	},
}

// golden are the events of versions that this build writes: the latest version of each
// type.
var golden = latestEvents()

func latestEvents() (latest []Event) {
	for _, v := range versions {
		if v.version == LatestVersion(v.event.Type()) {
			latest = append(latest, v.event)
		}
	}
	return latest
}

// goldenPayload returns the payload of a golden file.
func goldenPayload(t testing.TB, eventType Type, version int) []byte {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("%s.v%d.json", eventType, version)))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSpace(file)
}

// TestEveryVersionHasAGoldenFile checks that there is one golden file for each version of
// each type, from 1 to the latest without a gap.
func TestEveryVersionHasAGoldenFile(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(versions) {
		t.Fatalf("files in testdata: got %d, want %d, one for each version", len(files), len(versions))
	}
	written := map[Type]int{}
	for _, v := range versions {
		eventType := v.event.Type()
		written[eventType]++
		if v.version != written[eventType] {
			t.Errorf("%s: got version %d in versions, want version %d next",
				eventType, v.version, written[eventType])
		}
	}
	for _, eventType := range Types() {
		if latest := LatestVersion(eventType); written[eventType] != latest {
			t.Errorf("%s: got %d golden files, want %d, the latest version in upcast.go",
				eventType, written[eventType], latest)
		}
	}
	if len(written) != len(Types()) {
		t.Errorf("types with golden files: got %d, want %d", len(written), len(Types()))
	}
}

// TestGoldenFilesAreReadAndWrittenUnchanged checks that every version that was ever
// written is still read as its event, and that the latest version is written as in its
// golden file, byte for byte.
func TestGoldenFilesAreReadAndWrittenUnchanged(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		eventType := v.event.Type()
		payload := goldenPayload(t, eventType, v.version)
		decoded, err := Decode(eventType, payload)
		if err != nil {
			t.Errorf("decode %s.v%d: %v", eventType, v.version, err)
		}
		if !reflect.DeepEqual(decoded, v.event) {
			t.Errorf("decode %s.v%d: got %+v, want %+v", eventType, v.version, decoded, v.event)
		}
		if got := VersionOf(payload); got != v.version {
			t.Errorf("version of %s.v%d: got %d, want %d", eventType, v.version, got, v.version)
		}
		if v.version != LatestVersion(eventType) {
			continue
		}
		encoded, err := json.Marshal(v.event)
		if err != nil {
			t.Errorf("encode %s: %v", eventType, err)
		}
		if !bytes.Equal(encoded, payload) {
			t.Errorf("encode %s: got %s, want %s", eventType, encoded, payload)
		}
	}
}

// TestPayloadShapeChangesOnlyWithItsVersion checks that a Go type has the fields of its
// latest version, and that each golden file has the fields of its own. Every field must
// be set in the file, so that no zero value hides one.
func TestPayloadShapeChangesOnlyWithItsVersion(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		eventType := v.event.Type()
		if v.version == LatestVersion(eventType) {
			if got := shapeOf(reflect.TypeOf(v.event).Elem()); got != v.shape {
				t.Errorf("%s: got the shape (%s), want (%s) for version %d: "+
					"a new shape is a new version, see docs/how-to-change-an-event.md",
					eventType, got, v.shape, v.version)
			}
		}
		var fields map[string]any
		if err := json.Unmarshal(goldenPayload(t, eventType, v.version), &fields); err != nil {
			t.Fatal(err)
		}
		delete(fields, "v")
		for _, field := range strings.Split(v.shape, ", ") {
			name, kind, _ := strings.Cut(field, " ")
			value, exists := fields[name]
			if !exists {
				t.Errorf("%s.v%d: got no field %s, want one", eventType, v.version, name)
			}
			if _, isText := value.(string); isText != (kind == "string") {
				t.Errorf("%s.v%d: got the field %s with %v, want a %s",
					eventType, v.version, name, value, kind)
			}
			if value == "" || value == 0.0 {
				t.Errorf("%s.v%d: got the field %s with a zero value, want another",
					eventType, v.version, name)
			}
			delete(fields, name)
		}
		if len(fields) > 0 {
			t.Errorf("%s.v%d: got the further fields %v, want none but those of its shape",
				eventType, v.version, fields)
		}
	}
}

// shapeOf lists the fields of a struct by their JSON names, with their Go types.
func shapeOf(t reflect.Type) string {
	var fields []string
	for i := range t.NumField() {
		if f := t.Field(i); f.Name != "versioned" {
			fields = append(fields, f.Tag.Get("json")+" "+f.Type.String())
		}
	}
	return strings.Join(fields, ", ")
}

const completeFields = `"hold_id":"h","sku":"s","qty":1,"delta":1,"reason":"r"`

// TestDecodeRefusesIncompletePayloads checks that Decode refuses payloads that lack
// required fields, have values of the wrong type, or state an impossible version, and
// that it does not blame a newer version for that.
func TestDecodeRefusesIncompletePayloads(t *testing.T) {
	t.Parallel()
	payloads := []string{
		`null`, `{}`, `[]`, `"x"`, `{"sku":1}`, `{"hold_id":"h"}`, `{`, ``,
		`{"hold_id":"h","sku":"","qty":0}`,
		`{"sku":"s","delta":1.5,"qty":1.5}`, `{"v":1}`,
	}
	for _, version := range []string{`-1`, `"1"`, `"x"`, `1.5`, `[]`, `true`, `1e99`} {
		payloads = append(payloads, `{"v":`+version+`,`+completeFields+`}`)
	}
	for _, payload := range payloads {
		for _, event := range golden {
			got, err := Decode(event.Type(), []byte(payload))
			if err == nil {
				t.Errorf("%s of %s: got %+v, want an error", event.Type(), payload, got)
			}
			if newer := new(NewerVersionError); errors.As(err, &newer) {
				t.Errorf("%s of %s: got %v, want an error about the payload", event.Type(), payload, err)
			}
		}
	}
}

// TestDecodeReadsVersion1WithOrWithoutItsNumber checks that a payload without a version
// is read as version 1.
func TestDecodeReadsVersion1WithOrWithoutItsNumber(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{`{` + completeFields + `}`, `{"v":1,` + completeFields + `}`} {
		for _, event := range golden {
			if _, err := Decode(event.Type(), []byte(payload)); err != nil {
				t.Errorf("%s of %s: got error %v, want none", event.Type(), payload, err)
			}
		}
	}
}

// TestDecodeRefusesAnUnknownType checks that Decode fails with UnknownTypeError for a
// type that this build does not know.
func TestDecodeRefusesAnUnknownType(t *testing.T) {
	t.Parallel()
	const unknownType Type = "HOLD_TRANSFERRED"
	_, err := Decode(unknownType, []byte(`{}`))
	unknown := new(UnknownTypeError)
	if !errors.As(err, &unknown) {
		t.Fatalf("decode %s: got %v, want UnknownTypeError", unknownType, err)
	}
	if unknown.Type != unknownType {
		t.Errorf("type in the error: got %s, want %s", unknown.Type, unknownType)
	}
	if Known(unknownType) {
		t.Errorf("Known(%s): got true, want false", unknownType)
	}
}

// TestDecodeReportsANewerVersion checks that Decode fails with NewerVersionError for a
// payload of a later version, whatever fields it has, so that it is not mistaken for a
// broken one.
func TestDecodeReportsANewerVersion(t *testing.T) {
	t.Parallel()
	for _, event := range golden {
		latest := LatestVersion(event.Type())
		want := NewerVersionError{Type: event.Type(), Version: latest + 1, Latest: latest}
		for _, fields := range []string{
			``,
			`,"sku":"s","qty":1,"hold_id":"h"`,
			`,"sku":{"id":7},"delta":"many","qty":[1]`,
		} {
			payload := fmt.Sprintf(`{"v":%d%s}`, latest+1, fields)
			_, err := Decode(event.Type(), []byte(payload))
			newer := new(NewerVersionError)
			if !errors.As(err, &newer) {
				t.Errorf("%s of %s: got %v, want NewerVersionError", event.Type(), payload, err)
				continue
			}
			if *newer != want {
				t.Errorf("%s of %s: got %+v, want %+v", event.Type(), payload, *newer, want)
			}
		}
	}
}

// TestPayloadTakesEveryStepFromItsVersion checks that an older payload takes every upcast
// step from its own version on, in order, and that a payload that a step refuses is
// refused.
//
// It gives HOLD_CANCELLED a history of three versions, so it must not run in parallel
// with other tests.
func TestPayloadTakesEveryStepFromItsVersion(t *testing.T) {
	const eventType = TypeHoldCancelled
	upcasters[eventType] = []upcaster{
		func(p map[string]json.RawMessage) error {
			p["quantity"] = p["count"]
			delete(p, "count")
			return nil
		},
		func(p map[string]json.RawMessage) error {
			if p["quantity"] == nil {
				return errors.New("no quantity")
			}
			p["qty"] = p["quantity"]
			delete(p, "quantity")
			return nil
		},
	}
	defer delete(upcasters, eventType)
	for payload, qty := range map[string]int64{
		`{"hold_id":"h","sku":"s","count":1}`:          1,
		`{"hold_id":"h","sku":"s","count":2,"v":1}`:    2,
		`{"v":2,"hold_id":"h","sku":"s","quantity":3}`: 3,
		`{"v":3,"hold_id":"h","sku":"s","qty":4}`:      4,
	} {
		got, err := Decode(eventType, []byte(payload))
		if err != nil {
			t.Errorf("decode %s: %v", payload, err)
		}
		want := &HoldCancelled{HoldID: "h", SKU: "s", Qty: qty}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("decode %s: got %+v, want %+v", payload, got, want)
		}
	}
	_, err := Decode(eventType, []byte(`{"v":2,"hold_id":"h","sku":"s"}`))
	if want := "bring version 2 to 3: no quantity"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("decode a payload that a step refuses: got %v, want an error with %q", err, want)
	}
}

// FuzzDecode checks that Decode panics on no bytes, and that an event that it returns is
// the same after it is written and read again.
func FuzzDecode(f *testing.F) {
	for _, v := range versions {
		f.Add(string(v.event.Type()), goldenPayload(f, v.event.Type(), v.version))
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
		if got := event.Type(); got != Type(eventType) {
			t.Fatalf("type of %q: got %s, want %s", payload, got, eventType)
		}
		encoded, err := json.Marshal(event)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(event.Type(), encoded)
		if err != nil {
			t.Fatalf("decode %s, written from %q: %v", encoded, payload, err)
		}
		if !reflect.DeepEqual(again, event) {
			t.Errorf("%q written and read again: got %+v, want %+v", payload, again, event)
		}
	})
}
