// Package commands decides a pool's commands: Reserve, Confirm, Cancel and AdjustStock. A
// Lua script in Redis decides each command and appends its event to the stream in the
// same atomic step. One call of the script decides all commands that are waiting.
//
// Read it in this order:
//
//  1. reserve.go, confirm.go, cancel.go, adjust.go: each command, its validation, its
//     event, its answer. hold.go has the read that Confirm and Cancel begin with.
//  2. service.go: decide publishes the event through Watermill.
//  3. decide.go: the XADD of Watermill's publisher is a call of the script.
//  4. batcher.go: commands that wait are sent together.
//  5. lua/: the rule of each command (reserve.lua, …), what the rules share
//     (prelude.lua), and the loop over the commands of a call (decide.lua).
//  6. errors.go: the script's status words become typed errors.
//
// gate.go says whether commands are decided at all. The package recovery, in recovery/,
// opens and closes the gate, and restores a Redis that was emptied or is behind.
//
// Of ours it imports events and events/stream. A Service is safe for concurrent use. A
// command that is sent twice with the same idempotency key takes effect once. So does a
// call of the script that the Redis client sends again after it lost the answer.
package commands
