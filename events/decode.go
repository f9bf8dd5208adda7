package events

import (
	"fmt"

	"github.com/goccy/go-json" // replay spends much of its time here; encoding/json takes six times as long
)

// UnknownTypeError is returned for an event whose type this build does not know. A newer
// build may have written it.
type UnknownTypeError struct{ Type Type }

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("unknown event type %q", string(e.Type))
}

// NewerVersionError is returned for a payload of a version that only a newer build can
// read. The fields that this build knows are not read either, because their meaning may
// have changed.
type NewerVersionError struct {
	Type    Type
	Version int // the payload's version
	Latest  int // the latest version that this build can read
}

func (e *NewerVersionError) Error() string {
	return fmt.Sprintf("%s has version %d, this build can read versions up to %d",
		e.Type, e.Version, e.Latest)
}

// Decode returns the payload as its Go type: *StockAdjusted, *HoldCreated, *HoldConfirmed
// or *HoldCancelled. It converts a payload of an older version to the latest. It fails
// with *UnknownTypeError for another type and with *NewerVersionError for a newer
// version. It also fails if the JSON does not fit the type and version, or lacks a
// required field.
func Decode(t Type, payload []byte) (Event, error) {
	event := newEvent(t)
	if event == nil {
		return nil, &UnknownTypeError{Type: t}
	}
	// Nearly every payload has the latest version, so Decode first reads it as that. A
	// payload of another version may not fit the struct, so the error of this first
	// attempt counts only for the latest version.
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

// newEvent returns an empty event of a type, or nil if this build does not know the type.
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

// Known reports whether this build can decode events of a type.
func Known(t Type) bool { return newEvent(t) != nil }

// VersionOf returns the version of a payload, or 1 if it has no version or is not valid
// JSON.
func VersionOf(payload []byte) int {
	var v versioned
	if err := json.Unmarshal(payload, &v); err != nil {
		return 1
	}
	return v.takeVersion()
}

// check rejects payloads that lack a required field, such as {} or null, which are valid
// JSON.
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
		return fmt.Errorf("payload lacks a required field: %s", text)
	}
	return nil
}
