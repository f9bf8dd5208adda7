package events

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Envelope is one event as the log holds it.
type Envelope struct {
	Pool    string
	Seq     int64 // dense per pool, from 1
	EventID uuid.UUID
	Type    Type
	SKU     string // lifted from the payload; "" where it has none
	HoldID  string // lifted from the payload; "" where it has none
	// Payload and Metadata are JSON objects, except that an entry that could not be read has the payload null.
	Payload  json.RawMessage
	Metadata json.RawMessage
	At       time.Time // Redis's clock, to the millisecond

	decoded   Event // set by Predecode
	decodeErr error
}

// Predecode decodes the payload now, so that every later Decode returns the same result at no cost.
func (e *Envelope) Predecode() { e.decoded, e.decodeErr = Decode(e.Type, e.Payload) }

// Decode returns the payload as its Go type; see the function Decode for its errors. The result is shared: nobody may
// change it.
func (e *Envelope) Decode() (Event, error) {
	if e.decoded == nil && e.decodeErr == nil {
		return Decode(e.Type, e.Payload)
	}
	return e.decoded, e.decodeErr
}
