// Package commands decides: Reserve, Confirm, Cancel and AdjustStock. Each is one call of one Lua script in Redis that
// rules on the command and appends its event in the same atomic step; see lua/ for the rules themselves.
//
// The package imports only events. A Service is safe for concurrent use. Running a command twice with the same key has
// one effect, which also covers a client library that sends it twice because an answer was lost.
package commands
