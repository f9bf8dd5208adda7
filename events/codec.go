package events

import (
	"fmt"

	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/goccy/go-json" // writes the same bytes as encoding/json, in less than half the time
)

// Codec converts between a Watermill message and the fields of a stream entry. It writes
// plain text fields instead of watermill-redisstream's msgpack, so that redis-cli and the
// scripts can read them. Any Watermill subscriber that uses this codec can read them,
// too.
type Codec struct{}

var _ redisstream.MarshallerUnmarshaller = Codec{}

// Metadata keys that the codec adds to a message. All other metadata belongs to the
// event.
const (
	metadataType       = "stockstream.type"
	metadataSeq        = "stockstream.seq"
	metadataAt         = "stockstream.at"
	metadataUnreadable = "stockstream.unreadable"
)

// NewMessage returns a message that publishes the event with this id.
func NewMessage(eventID string, event Event) (*message.Message, error) {
	payload, err := json.Marshal(event)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", event.Type(), err)
	}
	msg := message.NewMessage(eventID, payload)
	msg.Metadata.Set(metadataType, string(event.Type()))
	return msg, nil
}

// Marshal returns the fields event_id, type, payload and metadata. The script that
// appends the entry adds seq and at.
func (Codec) Marshal(_ string, msg *message.Message) (map[string]any, error) {
	eventType := msg.Metadata.Get(metadataType)
	if eventType == "" {
		return nil, fmt.Errorf("message %s has no event type: build it with events.NewMessage", msg.UUID)
	}
	metadata := []byte("{}")
	if len(msg.Metadata) > 1 {
		own := make(map[string]string, len(msg.Metadata))
		for key, value := range msg.Metadata {
			if key != metadataType {
				own[key] = value
			}
		}
		var err error
		if metadata, err = json.Marshal(own); err != nil {
			return nil, fmt.Errorf("encode metadata of %s: %w", msg.UUID, err)
		}
	}
	return map[string]any{
		FieldEventID:  msg.UUID,
		fieldType:     eventType,
		fieldPayload:  string(msg.Payload),
		fieldMetadata: string(metadata),
	}, nil
}

// Unmarshal returns the message of a stream entry. It never fails, because an error would
// end the subscription of a Watermill subscriber. An entry that cannot be read becomes a
// message whose payload is the entry's raw fields, and for which UnreadableReason returns
// why.
func (Codec) Unmarshal(values map[string]any) (*message.Message, error) {
	entry := ParseEntry("", "", values)
	if entry.Err != nil {
		msg := message.NewMessage(FieldText(values[FieldEventID]), entry.Raw())
		msg.Metadata.Set(metadataUnreadable, entry.Err.Error())
		return msg, nil //nolint:nilerr // the message carries the error
	}
	msg := message.NewMessage(entry.Envelope.EventID.String(), message.Payload(entry.Envelope.Payload))
	var own map[string]any
	if json.Unmarshal(entry.Envelope.Metadata, &own) == nil {
		for key, value := range own {
			msg.Metadata.Set(key, fmt.Sprint(value))
		}
	}
	msg.Metadata.Set(metadataType, string(entry.Envelope.Type))
	msg.Metadata.Set(metadataSeq, FieldText(values[FieldSeq]))
	msg.Metadata.Set(metadataAt, FieldText(values[FieldAt]))
	return msg, nil
}

// UnreadableReason returns why a message from Unmarshal is not an event, or "" if it is
// one.
func UnreadableReason(msg *message.Message) string { return msg.Metadata.Get(metadataUnreadable) }

// StreamFields returns the values of Marshal's fields in the order in which the scripts
// expect them.
func StreamFields(values map[string]any) [4]string {
	return [4]string{
		FieldText(values[FieldEventID]),
		FieldText(values[fieldType]),
		FieldText(values[fieldPayload]),
		FieldText(values[fieldMetadata]),
	}
}
