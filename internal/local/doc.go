// Package local starts real Redis and Postgres servers as child processes, for
// `stockstream dev` and for tests. For tests, it also starts a Redis Cluster, and a
// master with replicas and Sentinels.
//
// A server keeps its data in a directory. It can be stopped or killed, and started again
// on the same data. Each server runs in a process group of its own, so that Ctrl-C in a
// terminal reaches only the parent. On Linux, a server ends when its parent dies;
// elsewhere, the next start on the same directory stops it.
package local
