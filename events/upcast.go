package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// upcaster converts a payload to the next version, in place. The object is as it was
// stored, so an upcaster must expect any value, and returns an error for one that it
// cannot convert.
type upcaster func(payload map[string]json.RawMessage) error

// upcasters has, for each type, the steps from version 1 to 2, from 2 to 3 and so on. A
// type without steps is still at version 1. A step never changes once events of its
// version were written, because it defines what they mean.
var upcasters = map[Type][]upcaster{
	TypeStockAdjusted: {stockAdjusted2},
}

// LatestVersion returns the version of a type's payload that this build writes. It is
// also the newest that this build can read.
func LatestVersion(t Type) int { return 1 + len(upcasters[t]) }

// upcast converts a payload of an older version to the latest.
func upcast(t Type, version int, payload []byte) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(payload, &object); err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("payload is null")
	}
	// A version that is not a number, or below 1, is an error. It must not count as
	// version 1.
	if stated, exists := object["v"]; exists && string(stated) != strconv.Itoa(version) {
		return nil, fmt.Errorf("payload has an invalid version: %s", stated)
	}
	if version < 1 {
		return nil, fmt.Errorf("payload has an invalid version: %d", version)
	}
	for step, up := range upcasters[t][version-1:] {
		if err := up(object); err != nil {
			return nil, fmt.Errorf("bring version %d to %d: %w", version+step, version+step+1, err)
		}
	}
	object["v"] = strconv.AppendInt(nil, int64(LatestVersion(t)), 10)
	return json.Marshal(object)
}

// stockAdjusted2 adds an empty idempotency key, which version 1 did not record.
func stockAdjusted2(payload map[string]json.RawMessage) error {
	payload["idempotency_key"] = json.RawMessage(`""`)
	return nil
}
