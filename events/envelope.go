package events

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Envelope is an event with its position in the log, as the journal stores it.
type Envelope struct {
	Pool    string
	Seq     int64 // per pool, from 1, without gaps
	EventID uuid.UUID
	Type    Type
	SKU     string // copied from the payload; "" if it has none
	HoldID  string // copied from the payload; "" if it has none
	// Payload and Metadata are JSON objects. Only the payload of an entry that could not
	// be read is null.
	Payload  json.RawMessage
	Metadata json.RawMessage
	At       time.Time // by Redis's clock, to the millisecond

	decoded   Event // set by Predecode
	decodeErr error // set by Predecode
}

// Predecode decodes the payload now, so that every later Decode returns the result at no
// cost.
func (e *Envelope) Predecode() { e.decoded, e.decodeErr = Decode(e.Type, e.Payload) }

// Decode returns the payload as its Go type; the function Decode lists the errors. After
// Predecode all callers share the result, so they must not change it.
func (e *Envelope) Decode() (Event, error) {
	if e.decoded == nil && e.decodeErr == nil {
		return Decode(e.Type, e.Payload)
	}
	return e.decoded, e.decodeErr
}
