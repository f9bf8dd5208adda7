// Package stream reads and trims the Redis stream of a pool, to which the commands append
// events. It owns
//
//   - the log head (head.go): the pool's epoch and its highest assigned seq;
//   - stream ids (id.go) and consumer groups (groups.go);
//   - reading in order on behalf of the journal (reader.go), and backwards (scan.go);
//   - trimming (trim.go) and the description of a stream for operators (state.go).
//
// It imports events and nothing else of ours. A Reader and a Trimmer each belong to one
// worker, and their methods are not called concurrently, except that Reader.Fetch may run
// beside the others. All other functions may be called from any goroutine.
package stream
