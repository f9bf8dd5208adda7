package local

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// RedisOptions configure a Redis server.
type RedisOptions struct {
	Dir  string    // data directory; created if it does not exist
	Addr string    // host:port on loopback; "" and port 0 take a free port
	Args []string  // further flags of redis-server
	Log  io.Writer // for the server's log; may be nil
}

// Redis is a Redis server in a child process, with the settings that StockStream
// requires: every write is on disk before it is acknowledged, and no key is ever evicted.
type Redis struct {
	*process
	options RedisOptions
	addr    string
}

// StartRedis starts a Redis server and waits until it answers.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory of Redis: %w", err)
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	options.Dir = dir
	if err := endLeftover(filepath.Join(dir, "redis.pid"), "redis-server"); err != nil {
		return nil, err
	}
	r := &Redis{process: &process{name: "redis-server", log: &tail{next: options.Log}}, options: options}
	err = startOn(options.Addr, func(host string, port int) error {
		r.addr = net.JoinHostPort(host, strconv.Itoa(port))
		return r.Start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Start starts a stopped or killed server again, on the same data and port.
func (r *Redis) Start(ctx context.Context) error {
	program, err := redisServer()
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		return err
	}
	args := append([]string{
		"--bind", host,
		"--port", port,
		"--dir", r.options.Dir,
		"--pidfile", filepath.Join(r.options.Dir, "redis.pid"),
		"--appendonly", "yes",
		"--appendfsync", "always",
		"--no-appendfsync-on-rewrite", "no",
		"--save", "",
		"--maxmemory-policy", "noeviction",
		// Rewriting the append-only file takes a CPU core during a sale. By default,
		// Redis rewrites it from 64 MB on.
		"--auto-aof-rewrite-min-size", "512mb",
	}, r.options.Args...)
	if err := r.start(exec.Command(program, args...)); err != nil { //nolint:gosec // our own settings
		return err
	}
	client := redis.NewClient(&redis.Options{
		Addr:                  r.addr,
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
	})
	defer client.Close()
	return r.await(ctx, func(ctx context.Context) error { return r.isOurs(ctx, client) })
}

// isOurs fails unless the server that answers is the child. Another server may listen on
// the port.
func (r *Redis) isOurs(ctx context.Context, client *redis.Client) error {
	info, err := client.InfoMap(ctx, "server").Result()
	if err != nil {
		return err
	}
	if pid := info["Server"]["process_id"]; pid != strconv.Itoa(r.Pid()) {
		return fmt.Errorf("another Redis answers on %s (pid %s)", r.addr, pid)
	}
	return nil
}

// Stop shuts the server down in order.
func (r *Redis) Stop(ctx context.Context) error { return r.stop(ctx, syscall.SIGTERM) }

// Addr returns the server's address as host:port.
func (r *Redis) Addr() string { return r.addr }

// URL returns the server's URL, for go-redis and `redis-cli -u`.
func (r *Redis) URL() string { return "redis://" + r.addr + "/0" }
