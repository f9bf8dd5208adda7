package audit

import (
	"encoding/json"
	"reflect"

	"github.com/stockstream/stockstream/events"
)

// samePayload compares what two payloads say: the journal keeps them in another order than the stream.
func samePayload(a, b *entry) bool {
	first, errA := events.Decode(a.kind, a.payload)
	second, errB := events.Decode(b.kind, b.payload)
	if errA == nil && errB == nil {
		return reflect.DeepEqual(first, second)
	}
	var rawA, rawB any
	if json.Unmarshal(a.payload, &rawA) != nil || json.Unmarshal(b.payload, &rawB) != nil {
		return true // neither is an event; the journal has parked it
	}
	return reflect.DeepEqual(rawA, rawB)
}
