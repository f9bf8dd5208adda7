// Package worker runs background work that must go on in one process at a time. It owns
//
//   - the lease (lease.go): a Postgres session with an advisory lock, held by one
//     process;
//   - the loop (worker.go): wait for the lease, deliver batches, and after a failure
//     start again;
//   - the delivery of one batch to a Watermill handler (delivery.go);
//   - the checkpoint (checkpoint.go): the seq up to which a reader has handled a pool's
//     log.
//
// Of ours it imports internal/postgres, internal/wait and internal/logonce. A Worker may
// be used from several goroutines. A Lease is a single connection and must not be.
package worker
