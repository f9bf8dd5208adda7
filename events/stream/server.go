package stream

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

//go:embed lua/server.lua
var serverSource string

//go:embed lua/time.lua
var timeSource string

//go:embed lua/scan_keys.lua
var scanKeysSource string

// These scripts name a key of the pool. So they run on the node of a cluster that has the
// pool, where a plain TIME, INFO or SCAN would go to any node.
var (
	serverScript   = redis.NewScript(serverSource)
	timeScript     = redis.NewScript(timeSource)
	scanKeysScript = redis.NewScript(scanKeysSource)
)

// Server identifies a Redis and its data. While both ids stay the same, no key written to
// it was lost.
type Server struct {
	RunID         string // changes when the process restarts
	ReplicationID string // changes when the server restarts, is promoted, or replicates from another one
	Version       string // "" if Redis does not report it
	InCluster     bool   // cluster mode is on
}

// ErrClusterNode is returned for a client that knows only one node of a cluster.
var ErrClusterNode = errors.New("this Redis is a node of a Redis Cluster: " +
	"set STOCKSTREAM_REDIS_URL to redis+cluster://host:port,host:port")

// ReadServer returns the Redis that has a pool's keys. It fails with ErrClusterNode, or
// with an error of Redis.
func ReadServer(ctx context.Context, client redis.Scripter, pool events.Pool) (Server, error) {
	reply, err := askPool(ctx, client, pool, serverScript, 4)
	if redis.HasErrorPrefix(err, "NOPERM") {
		return Server{}, fmt.Errorf("ask which Redis answers: %w; docs/security.md has the rule for the Redis user", err)
	}
	if err != nil {
		return Server{}, fmt.Errorf("ask which Redis answers: %w", err)
	}
	found := Server{
		RunID:         reply[0],
		ReplicationID: reply[1],
		Version:       reply[2],
		InCluster:     reply[3] == "1",
	}
	if found.RunID == "" || found.ReplicationID == "" {
		return Server{}, errors.New("ask which Redis answers: INFO has no run_id or no master_replid")
	}
	if found.InCluster && !pool.HasTag() {
		return Server{}, ErrClusterNode
	}
	return found, nil
}

// ReadTime returns the time of the Redis that has a pool's keys, in whole milliseconds.
func ReadTime(ctx context.Context, client redis.Scripter, pool events.Pool) (time.Time, error) {
	reply, err := askPool(ctx, client, pool, timeScript, 2)
	if err != nil {
		return time.Time{}, fmt.Errorf("read Redis's clock: %w", err)
	}
	seconds, secondsErr := strconv.ParseInt(reply[0], 10, 64)
	micros, microsErr := strconv.ParseInt(reply[1], 10, 64)
	if err := errors.Join(secondsErr, microsErr); err != nil {
		return time.Time{}, fmt.Errorf("read Redis's clock: %w", err)
	}
	return time.UnixMilli(seconds*1000 + micros/1000), nil
}

// askPool runs a script that answers with a number of texts, on the Redis that has a
// pool's keys.
func askPool(
	ctx context.Context, client redis.Scripter, pool events.Pool, script *redis.Script, texts int,
) ([]string, error) {
	reply, err := script.Run(ctx, client, []string{pool.MetaKey()}).StringSlice()
	if _, moved := redis.IsMovedError(err); moved {
		return nil, ErrClusterNode
	}
	if err == nil && len(reply) != texts {
		err = fmt.Errorf("got %v, want %d texts", reply, texts)
	}
	return reply, err
}

// ScanKeys is one step of a SCAN over the Redis that has a pool's keys. It visits about
// count keys, and returns those that match a glob, and the next cursor: 0 at the end.
func ScanKeys(
	ctx context.Context, client redis.Scripter, pool events.Pool, cursor uint64, pattern string, count int,
) (keys []string, next uint64, err error) {
	reply, err := scanKeysScript.Run(ctx, client, []string{pool.MetaKey()}, cursor, pattern, count).Slice()
	if err != nil {
		return nil, 0, fmt.Errorf("scan Redis: %w", err)
	}
	if len(reply) != 2 {
		return nil, 0, fmt.Errorf("scan Redis: got %v, want a cursor and keys", reply)
	}
	next, err = strconv.ParseUint(events.FieldText(reply[0]), 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("scan Redis: %w", err)
	}
	found, _ := reply[1].([]any)
	for _, key := range found {
		keys = append(keys, events.FieldText(key))
	}
	return keys, next, nil
}
