// Package events owns the vocabulary of the whole system: the event types and their
// payloads, the form of an event on the stream, the envelope that the journal stores, the
// names of keys in Redis, and positions in a pool's log.
//
// It imports nothing of ours. The stream itself is read in events/stream, and the journal
// is written and read in events/journal. Everything here may be used from any goroutine,
// as long as each value is changed by only one.
package events
