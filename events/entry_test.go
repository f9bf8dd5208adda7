package events

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	validID      = "0198c0de-0000-7000-8000-0000000000aa"
	validPayload = `{"hold_id":"h1","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":1000,"idempotency_key":"k"}`
)

// entryFields returns the fields of a valid entry with some of them changed; a nil
// removes a field.
func entryFields(changes map[string]any) map[string]any {
	fields := map[string]any{
		"event_id": validID,
		"type":     "HOLD_CREATED",
		"payload":  validPayload,
		"metadata": `{"correlation_id":"c"}`,
		"seq":      "7",
		"at":       "1764000000000",
	}
	for name, value := range changes {
		if value == nil {
			delete(fields, name)
			continue
		}
		fields[name] = value
	}
	return fields
}

// TestParseEntryReadsEveryField checks the envelope of a valid entry.
func TestParseEntryReadsEveryField(t *testing.T) {
	t.Parallel()
	entry := ParseEntry("main", "1-1", entryFields(nil))
	if entry.Err != nil {
		t.Fatalf("valid entry: got error %v, want none", entry.Err)
	}
	e := entry.Envelope
	if e.Pool != "main" {
		t.Errorf("pool: got %q, want main", e.Pool)
	}
	if e.Seq != 7 {
		t.Errorf("seq: got %d, want 7", e.Seq)
	}
	if got := e.EventID.String(); got != validID {
		t.Errorf("event id: got %s, want %s", got, validID)
	}
	if e.SKU != "shirt" {
		t.Errorf("SKU: got %q, want shirt", e.SKU)
	}
	if e.HoldID != "h1" {
		t.Errorf("hold id: got %q, want h1", e.HoldID)
	}
	if got := e.At.UnixMilli(); got != 1764000000000 {
		t.Errorf("time: got %d ms, want 1764000000000", got)
	}
	if got := string(e.Payload); got != validPayload {
		t.Errorf("payload: got %s, want %s", got, validPayload)
	}
	if got := string(e.Metadata); got != `{"correlation_id":"c"}` {
		t.Errorf("metadata: got %s, want the correlation id c", got)
	}
}

// TestParseEntryReportsInvalidFields checks that the error of an invalid entry names the
// field, and that the entry still counts in the pool's sequence if its seq is valid.
func TestParseEntryReportsInvalidFields(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		changes map[string]any
		reason  string // a part of the error
		counts  bool   // whether the entry counts in the pool's sequence
	}{
		"no field of a command": {map[string]any{"seq": nil, "event_id": nil, "payload": nil}, "no seq",
			false},
		"seq 0":                  {map[string]any{"seq": "0"}, "no seq", false},
		"seq not a number":       {map[string]any{"seq": "seven"}, "no seq", false},
		"no event id":            {map[string]any{"event_id": nil}, "event_id", true},
		"no time":                {map[string]any{"at": nil}, "at:", true},
		"time after year 9999":   {map[string]any{"at": "99999999999999999"}, "at:", true},
		"no type":                {map[string]any{"type": nil}, "type", true},
		"type not UTF-8":         {map[string]any{"type": "\xff"}, "type", true},
		"no payload":             {map[string]any{"payload": nil}, "payload", true},
		"payload a list":         {map[string]any{"payload": "[]"}, "payload", true},
		"payload null":           {map[string]any{"payload": "null"}, "payload", true},
		"payload with NUL":       {map[string]any{"payload": `{"sku":"a\u0000"}`}, "payload", true},
		"payload not UTF-8":      {map[string]any{"payload": "{\"sku\":\"\xff\"}"}, "payload", true},
		"payload cut off":        {map[string]any{"payload": `{"sku":"a"`}, "payload", true},
		"SKU a number":           {map[string]any{"payload": `{"sku":1}`}, "payload", true},
		"metadata not an object": {map[string]any{"metadata": "7"}, "metadata", true},
		"metadata with NUL":      {map[string]any{"metadata": `{"a":"\u0000"}`}, "metadata", true},
		"two fields":             {map[string]any{"at": "x", "payload": "x"}, "payload", true},
	} {
		entry := ParseEntry("main", "1-1", entryFields(test.changes))
		if entry.Err == nil || !strings.Contains(entry.Err.Error(), test.reason) {
			t.Errorf("%s: got error %v, want one with %q", name, entry.Err, test.reason)
		}
		if counts := entry.Envelope.Seq > 0; counts != test.counts {
			t.Errorf("%s: counts in the sequence: got %t, want %t", name, counts, test.counts)
		}
	}
}

// FuzzParseEntry checks that any bytes become an entry that Postgres can store, and a
// dead letter that is JSON.
func FuzzParseEntry(f *testing.F) {
	f.Add(validID, "HOLD_CREATED", validPayload, "{}", "1", "1764000000000")
	f.Add("", "", "", "", "", "")
	f.Add("\x00", "\xff", `{"sku":"\ud800"}`, "[]", "-1", "1e9")
	f.Fuzz(func(t *testing.T, id, eventType, payload, metadata, seq, at string) {
		entry := ParseEntry("main", "1-1", map[string]any{
			"event_id": id,
			"type":     eventType,
			"payload":  payload,
			"metadata": metadata,
			"seq":      seq,
			"at":       at,
		})
		e := entry.Envelope
		if !json.Valid(e.Payload) {
			t.Errorf("payload: got %q, want JSON", e.Payload)
		}
		if !json.Valid(e.Metadata) {
			t.Errorf("metadata: got %q, want JSON", e.Metadata)
		}
		if raw := entry.Raw(); !json.Valid(raw) {
			t.Errorf("raw fields: got %q, want JSON", raw)
		}
		for _, text := range []string{string(e.Type), e.SKU, e.HoldID} {
			if !utf8.ValidString(text) {
				t.Errorf("text for Postgres: got %q, want UTF-8", text)
			}
			if strings.Contains(text, "\x00") {
				t.Errorf("text for Postgres: got %q, want no NUL", text)
			}
		}
		if entry.Err == nil && e.Seq < 1 {
			t.Errorf("valid entry: got seq %d, want at least 1", e.Seq)
		}
	})
}
