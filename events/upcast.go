package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// upcaster turns a payload of one version into the next, in place. It is given the object as it was stored, so it may
// find anything there; it says with an error what it cannot make sense of.
type upcaster func(payload map[string]json.RawMessage) error

// upcasters are, per type, the steps from version 1 to 2, from 2 to 3 and so on. A type that has none is at version 1.
// A step is never changed once events of its version were written: it says what they meant.
var upcasters = map[Type][]upcaster{
	TypeStockAdjusted: {stockAdjusted2},
}

// LatestVersion is the version of a type's payload that this build writes, and the last that it reads.
func LatestVersion(t Type) int { return 1 + len(upcasters[t]) }

// upcast brings a payload of an older version to the latest.
func upcast(t Type, version int, payload []byte) ([]byte, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(payload, &object); err != nil {
		return nil, err
	}
	if object == nil {
		return nil, errors.New("payload is null")
	}
	// A version that is no number, or none that there ever was, is not version 1 for want of a better.
	if stated, there := object["v"]; there && string(stated) != strconv.Itoa(version) {
		return nil, fmt.Errorf("payload is of no version: %s", stated)
	}
	if version < 1 {
		return nil, fmt.Errorf("payload is of no version: %d", version)
	}
	for step, up := range upcasters[t][version-1:] {
		if err := up(object); err != nil {
			return nil, fmt.Errorf("bring version %d to %d: %w", version+step, version+step+1, err)
		}
	}
	object["v"] = strconv.AppendInt(nil, int64(LatestVersion(t)), 10)
	return json.Marshal(object)
}

// stockAdjusted2 gives an adjustment of version 1 the key that was not recorded then.
func stockAdjusted2(payload map[string]json.RawMessage) error {
	payload["idempotency_key"] = json.RawMessage(`""`)
	return nil
}
