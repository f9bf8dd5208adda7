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

// RedisOptions say how to run a Redis.
type RedisOptions struct {
	Dir  string    // where its data lie; made where missing
	Addr string    // host:port on loopback; a free port for "" and for port 0
	Args []string  // more flags of redis-server
	Log  io.Writer // may be nil
}

// Redis is a server of its own, with the settings that StockStream asks for: every write is on disk before it is
// acknowledged, and nothing is ever evicted.
type Redis struct {
	*process
	options RedisOptions
	addr    string
}

// StartRedis starts a Redis and waits until it answers.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory for Redis: %w", err)
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

// Start starts a server that was stopped or killed, on the same data and the same port.
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
		"--bind", host, "--port", port, "--dir", r.options.Dir, "--pidfile", filepath.Join(r.options.Dir, "redis.pid"),
		"--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no", "--save", "",
		"--maxmemory-policy", "noeviction",
		// The log of writes is rewritten by a child process beside a sale, which takes a core: not at every doubling from
		// 64 MB on.
		"--auto-aof-rewrite-min-size", "512mb",
	}, r.options.Args...)
	if err := r.start(exec.Command(program, args...)); err != nil { //nolint:gosec // our own settings
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: r.addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	defer client.Close()
	return r.await(ctx, func(ctx context.Context) error { return r.isOurs(ctx, client) })
}

// isOurs fails unless the server that answers is the child: another one may hold the port.
func (r *Redis) isOurs(ctx context.Context, client *redis.Client) error {
	info, err := client.InfoMap(ctx, "server").Result()
	if err != nil {
		return err
	}
	if pid := info["Server"]["process_id"]; pid != strconv.Itoa(r.Pid()) {
		return fmt.Errorf("the Redis that answers on %s is another (pid %s)", r.addr, pid)
	}
	return nil
}

// Stop asks the server to end in good order.
func (r *Redis) Stop(ctx context.Context) error { return r.stop(ctx, syscall.SIGTERM) }

// Addr is host:port.
func (r *Redis) Addr() string { return r.addr }

// URL is what go-redis and `redis-cli -u` take.
func (r *Redis) URL() string { return "redis://" + r.addr + "/0" }
