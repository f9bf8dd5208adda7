// Package events holds the vocabulary that everything else speaks: the event types and their wire form, the names
// of the keys in Redis, the stream (Redis) that events are appended to, and the journal (Postgres) that keeps them, is
// read as history, and consists of parts.
//
// It imports nothing of ours but what is internal. Values are safe to copy; a Journal and a Lease belong to one
// goroutine unless their comments say otherwise. Everything here may be delivered twice: the journal's checkpoint is
// what makes the second time a no-op.
package events
