// Package local starts real Redis and Postgres servers as child processes, for `stockstream dev` and for tests.
//
// A server keeps its data in a directory and can be stopped, killed and started again on it. Children stand in a
// process group of their own, so that Ctrl-C in a terminal reaches only the parent, and they die with the parent.
package local
