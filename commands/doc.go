// Package commands decides: Reserve, Confirm, Cancel and AdjustStock. One Lua script in Redis rules on a command and
// appends its event in the same atomic step, for all commands that arrive together in one call; see lua/ for the rules
// themselves. It also watches over what it decides in: it compares Redis's log with the journal, and restores a Redis
// that was emptied or is behind (keep_open.go, relation.go, restore.go).
//
// Of ours the package imports only events and what is internal. A Service is safe for concurrent use. Running a command
// twice with the same key has one effect, which also covers a client library that sends it twice because an answer was
// lost.
package commands
