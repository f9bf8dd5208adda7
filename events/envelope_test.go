package events

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	someID   = "0198c0de-0000-7000-8000-0000000000aa"
	someHold = `{"hold_id":"h1","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":1000,"idempotency_key":"k"}`
)

// fields are an entry's, some of them changed.
func fields(changes map[string]any) map[string]any {
	all := map[string]any{
		"event_id": someID, "type": "HOLD_CREATED", "payload": someHold, "metadata": `{"correlation_id":"c"}`, "seq": "7", "at": "1764000000000",
	}
	for name, value := range changes {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// TestParseEntry reads good entries, and tells what is wrong with others.
func TestParseEntry(t *testing.T) {
	t.Parallel()
	good := ParseEntry("main", "1-1", fields(nil))
	e := good.Envelope
	if good.Err != nil || e.Seq != 7 || e.EventID.String() != someID || e.SKU != "shirt" || e.HoldID != "h1" || e.At.UnixMilli() != 1764000000000 ||
		string(e.Payload) != someHold || string(e.Metadata) != `{"correlation_id":"c"}` || e.Pool != "main" {
		t.Errorf("got %+v", good)
	}
	tests := map[string]struct {
		changes map[string]any
		says    string
		counts  bool // in the pool's sequence
	}{
		"nothing of ours":     {map[string]any{"seq": nil, "event_id": nil, "payload": nil}, "no seq", false},
		"seq 0":               {map[string]any{"seq": "0"}, "no seq", false},
		"seq no number":       {map[string]any{"seq": "seven"}, "no seq", false},
		"no event id":         {map[string]any{"event_id": nil}, "event_id", true},
		"no time":             {map[string]any{"at": nil}, "at:", true},
		"time beyond the end": {map[string]any{"at": "99999999999999999"}, "at:", true},
		"no type":             {map[string]any{"type": nil}, "type", true},
		"type not UTF-8":      {map[string]any{"type": "\xff"}, "type", true},
		"no payload":          {map[string]any{"payload": nil}, "payload", true},
		"payload a list":      {map[string]any{"payload": "[]"}, "payload", true},
		"payload null":        {map[string]any{"payload": "null"}, "payload", true},
		"payload with NUL":    {map[string]any{"payload": `{"sku":"a\u0000"}`}, "payload", true},
		"payload not UTF-8":   {map[string]any{"payload": "{\"sku\":\"\xff\"}"}, "payload", true},
		"payload cut off":     {map[string]any{"payload": `{"sku":"a"`}, "payload", true},
		"sku a number":        {map[string]any{"payload": `{"sku":1}`}, "payload", true},
		"metadata no object":  {map[string]any{"metadata": "7"}, "metadata", true},
		"metadata with NUL":   {map[string]any{"metadata": `{"a":"\u0000"}`}, "metadata", true},
		"several at once":     {map[string]any{"at": "x", "payload": "x"}, "payload", true},
	}
	for name, test := range tests {
		entry := ParseEntry("main", "1-1", fields(test.changes))
		if entry.Err == nil || !strings.Contains(entry.Err.Error(), test.says) {
			t.Errorf("%s: got %v, want it to say %q", name, entry.Err, test.says)
		}
		if counts := entry.Envelope.Seq > 0; counts != test.counts {
			t.Errorf("%s: counts in the sequence: got %t, want %t", name, counts, test.counts)
		}
	}
}

// FuzzParseEntry holds that any bytes become an entry that Postgres can store, and a letter that is JSON.
func FuzzParseEntry(f *testing.F) {
	f.Add(someID, "HOLD_CREATED", someHold, "{}", "1", "1764000000000")
	f.Add("", "", "", "", "", "")
	f.Add("\x00", "\xff", `{"sku":"\ud800"}`, "[]", "-1", "1e9")
	f.Fuzz(func(t *testing.T, id, eventType, payload, metadata, seq, at string) {
		entry := ParseEntry("main", "1-1", map[string]any{
			"event_id": id, "type": eventType, "payload": payload, "metadata": metadata, "seq": seq, "at": at,
		})
		e := entry.Envelope
		if !json.Valid(e.Payload) || !json.Valid(e.Metadata) || !json.Valid(entry.Raw()) {
			t.Errorf("not JSON: payload %q, metadata %q, raw %q", e.Payload, e.Metadata, entry.Raw())
		}
		for _, text := range []string{string(e.Type), e.SKU, e.HoldID} {
			if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
				t.Errorf("Postgres cannot store %q", text)
			}
		}
		if entry.Err == nil && e.Seq < 1 {
			t.Errorf("an event without a place: %+v", e)
		}
	})
}
