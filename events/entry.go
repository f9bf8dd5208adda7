package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Names of a stream entry's fields.
const (
	FieldEventID  = "event_id"
	fieldType     = "type"
	fieldPayload  = "payload"
	fieldMetadata = "metadata"
	FieldSeq      = "seq"
	FieldAt       = "at"
)

// Entry is one entry of the stream, whether or not it is an event. An entry that cannot
// be read has the reason in Err, and as much of its Envelope as could be read.
type Entry struct {
	StreamID string
	Fields   map[string]any
	Envelope Envelope
	// Err is why the entry is not a valid event, or nil. If Envelope.Seq is above 0, the
	// entry counts in the pool's sequence all the same.
	Err error
}

// Foreign returns a copy of the entry, marked as a foreign entry: one that no command
// wrote. The arguments format the reason. A foreign entry does not count in the pool's
// sequence.
func (e Entry) Foreign(format string, args ...any) Entry {
	e.Err = fmt.Errorf(format, args...)
	e.Envelope.Seq = 0
	return e
}

// EntrySeq returns the seq in a stream entry's fields, or 0 if there is no valid one. A
// foreign entry may have a seq, too.
func EntrySeq(fields map[string]any) int64 {
	seq, err := strconv.ParseInt(FieldText(fields[FieldSeq]), 10, 64)
	if err != nil || seq < 1 {
		return 0
	}
	return seq
}

// ParseEntry reads a stream entry. It never fails; all faults of the entry go into its
// Err.
func ParseEntry(pool, streamID string, fields map[string]any) Entry {
	entry := Entry{StreamID: streamID, Fields: fields}
	e := &entry.Envelope
	e.Pool = pool
	e.Metadata = json.RawMessage("{}")
	e.Payload = json.RawMessage("null")
	e.Type = Type(validText(fields[fieldType]))

	e.Seq = EntrySeq(fields)
	if e.Seq == 0 {
		entry.Err = errors.New("no seq: the entry was not written by a command")
		return entry
	}

	var err error
	var faults []error
	if e.EventID, err = uuid.Parse(FieldText(fields[FieldEventID])); err != nil {
		faults = append(faults, fmt.Errorf("event_id: %w", err))
		e.EventID = uuid.NewSHA1(uuid.NameSpaceOID, []byte(pool+"/"+streamID))
	}
	if e.At, err = ParseMillis(FieldText(fields[FieldAt])); err != nil {
		faults = append(faults, err)
	}
	if e.Type == "" {
		faults = append(faults, errors.New("type: empty, or not UTF-8"))
	}
	if err := e.setPayload(FieldText(fields[fieldPayload])); err != nil {
		faults = append(faults, err)
	}
	if metadata := FieldText(fields[fieldMetadata]); metadata != "" && metadata != "{}" {
		if err := storableJSON([]byte(metadata), &map[string]any{}); err != nil {
			faults = append(faults, fmt.Errorf("metadata: %w", err))
		} else {
			e.Metadata = json.RawMessage(metadata)
		}
	}
	entry.Err = errors.Join(faults...)
	return entry
}

// setPayload sets the payload, and copies its SKU and hold id, by which the journal finds
// events.
func (e *Envelope) setPayload(payload string) error {
	var keys struct {
		SKU    string `json:"sku"`
		HoldID string `json:"hold_id"`
	}
	raw := []byte(payload)
	if err := storableJSON(raw, &keys); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	e.Payload = raw
	e.SKU = keys.SKU
	e.HoldID = keys.HoldID
	return nil
}

// storableJSON decodes a JSON object. It rejects one that Postgres cannot store as jsonb:
// one with a NUL character or with invalid UTF-8.
func storableJSON(raw []byte, into any) error {
	if !utf8.Valid(raw) || !storableEscapes(raw) {
		return errors.New("not UTF-8, or contains a NUL character or half a surrogate pair")
	}
	if trimmed := bytes.TrimLeft(raw, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("not a JSON object")
	}
	return json.Unmarshal(raw, into)
}

// storableEscapes reports whether every \u escape of a JSON text is a character that
// Postgres can store.
func storableEscapes(raw []byte) bool {
	for {
		at := bytes.IndexByte(raw, '\\')
		if at < 0 || at+1 == len(raw) {
			return true
		}
		raw = raw[at:]
		length := 2
		if raw[1] == 'u' {
			length = 6
			first := escaped(raw)
			if first == 0 {
				return false
			}
			if utf16.IsSurrogate(first) {
				length = 12
				if utf16.DecodeRune(first, escaped(raw[min(6, len(raw)):])) == utf8.RuneError {
					return false
				}
			}
		}
		raw = raw[min(length, len(raw)):]
	}
}

// escaped returns the code unit of the escape, like \u00e9, that a text begins with. It
// returns utf8.RuneError if the text begins with no valid one.
func escaped(text []byte) rune {
	if len(text) < 6 || !bytes.HasPrefix(text, []byte(`\u`)) {
		return utf8.RuneError
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(unit)
}

// ParseMillis reads a time in milliseconds since 1970, as in the field at.
func ParseMillis(s string) (time.Time, error) {
	ms, err := strconv.ParseInt(s, 10, 64)
	const maxMs = 253402300799999 // the end of the year 9999, the last that time.Time can write as JSON
	if err != nil || ms < 0 || ms > maxMs {
		return time.UnixMilli(0), fmt.Errorf("at: %q is not a time in milliseconds", s)
	}
	return time.UnixMilli(ms), nil
}

// FieldText returns a field of a stream entry as text, or "" if it is missing or not
// text.
func FieldText(value any) string {
	s, _ := value.(string)
	return s
}

// validText returns a field as text, or "" if Postgres could not store it.
func validText(value any) string {
	s := FieldText(value)
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return ""
	}
	return s
}

// Raw returns the entry's fields as JSON, for a dead letter. A value that is not UTF-8 is
// written in base64, under the name "<field>_base64".
func (e Entry) Raw() []byte {
	fields := make(map[string]any, len(e.Fields))
	for name, value := range e.Fields {
		if s, ok := value.(string); ok && !utf8.ValidString(s) {
			fields[name+"_base64"] = []byte(s)
			continue
		}
		fields[name] = value
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		return fmt.Appendf(nil, "%q", fields)
	}
	return raw
}
