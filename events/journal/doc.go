// Package journal owns the journal: the table events in Postgres, which records every
// event of every pool, and from which read models and Redis itself can be rebuilt.
//
//   - Append: StreamSubscriber reads the stream, Writer appends it in order, each event
//     once.
//   - Read: Subscriber delivers the journal to projections, ReadHistory and Follow serve
//     queries, ReadEvents and CheckComplete serve a replay.
//   - Partitions: the table is split by seq. Old partitions can be detached and attached
//     again.
//   - Epochs: RaiseEpoch fences the writers of a log that is about to be rebuilt.
//
// The package imports events, events/stream, and small packages under internal. A Writer
// handles one batch at a time. A PageCache may be shared. All other functions are as safe
// for concurrent use as the connection passed to them.
//
// The stream delivers at least once. The journal's checkpoint, which moves in the
// transaction that appends, turns that into exactly once.
package journal
