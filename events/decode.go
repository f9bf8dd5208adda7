package events

import (
	"fmt"

	"github.com/goccy/go-json" // replay spends much of its time here; encoding/json takes six times as long
)

// UnknownTypeError is returned for an event whose type this version does not know; a newer one may have written it.
type UnknownTypeError struct{ Type Type }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("unknown event type %q", string(e.Type))
}

// NewerVersionError is returned for a payload of a version that only a newer build can read. What it says may have come
// to mean something else, so it is not read as far as it goes.
type NewerVersionError struct {
	Type            Type
	Version, Latest int // the payload's, and the last that this build knows
}

func (e *NewerVersionError) Error() string {
	return fmt.Sprintf("%s of version %d: this build knows it up to version %d", e.Type, e.Version, e.Latest)
}

// Decode returns the payload as its Go type: *StockAdjusted, *HoldCreated, *HoldConfirmed or *HoldCancelled. A payload
// of an older version is brought up to the latest. It fails with *UnknownTypeError for another type, with
// *NewerVersionError for a later version, and for a payload that is not the JSON that type and version ask for.
func Decode(t Type, payload []byte) (Event, error) {
	event := newEvent(t)
	if event == nil {
		return nil, &UnknownTypeError{Type: t}
	}
	// Nearly every payload is of the latest version, so Decode first reads it as that. A payload
	// of another version may not fit the struct: then its version decides, not the error.
	err := json.Unmarshal(payload, event)
	version := event.takeVersion()
	if err != nil {
		version = VersionOf(payload)
	}
	latest := LatestVersion(t)
	switch {
	case version > latest:
		return nil, &NewerVersionError{Type: t, Version: version, Latest: latest}
	case version < latest:
		event = newEvent(t)
		if payload, err = upcast(t, version, payload); err == nil {
			err = json.Unmarshal(payload, event)
			event.takeVersion()
		}
	}
	if err == nil {
		err = check(event)
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", t, err)
	}
	return event, nil
}

// newEvent returns an empty event of a type, or nil for a type that this version does not know.
func newEvent(t Type) Event {
	switch t {
	case TypeStockAdjusted:
		return new(StockAdjusted)
	case TypeHoldCreated:
		return new(HoldCreated)
	case TypeHoldConfirmed:
		return new(HoldConfirmed)
	case TypeHoldCancelled:
		return new(HoldCancelled)
	}
	return nil
}

// Known reports whether this version can decode events of a type.
func Known(t Type) bool { return newEvent(t) != nil }

// VersionOf returns the version of a payload: 1 where it names none, or cannot be read.
func VersionOf(payload []byte) int {
	var v versioned
	if err := json.Unmarshal(payload, &v); err != nil {
		return 1
	}
	return v.takeVersion()
}

// check holds the least that every reader relies on: JSON that merely parses (null, {}) is not an event.
func check(event Event) error {
	switch e := event.(type) {
	case *StockAdjusted:
		return require(e.SKU != "", "sku is empty")
	case *HoldCreated:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	case *HoldConfirmed:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	case *HoldCancelled:
		return requireHold(e.HoldID, e.SKU, e.Qty)
	}
	return nil
}

func requireHold(holdID, sku string, qty int64) error {
	return require(holdID != "" && sku != "" && qty > 0, "want hold_id, sku and a qty above 0")
}

func require(ok bool, text string) error {
	if !ok {
		return fmt.Errorf("payload is not whole: %s", text)
	}
	return nil
}
