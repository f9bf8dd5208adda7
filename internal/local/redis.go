package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisOptions configure a Redis server.
type RedisOptions struct {
	Dir  string    // data directory; created if it does not exist
	Addr string    // host:port on loopback; "" and port 0 take a free port
	Args []string  // further flags of redis-server
	Log  io.Writer // for the server's log; may be nil

	config     string // a configuration file that the server rewrites; "" for none
	isSentinel bool   // see Sentinel
}

// Redis is a Redis server in a child process, with the settings that StockStream
// requires: every write is on disk before it is acknowledged, and no key is ever evicted.
// It may also be a Sentinel, which keeps no data.
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
	if err := endLeftover(filepath.Join(dir, "redis.pid"), "redis-server", dir); err != nil {
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
	var args []string
	if r.options.config != "" {
		args = append(args, r.options.config) // Redis requires it before the flags
	}
	args = append(args,
		"--bind", host,
		"--port", port,
		"--dir", r.options.Dir,
		"--pidfile", filepath.Join(r.options.Dir, "redis.pid"),
	)
	if r.options.isSentinel {
		args = append(args, "--sentinel")
	} else {
		args = append(args,
			"--appendonly", "yes",
			"--appendfsync", "always",
			"--no-appendfsync-on-rewrite", "no",
			"--save", "",
			"--maxmemory-policy", "noeviction",
			// Rewriting the append-only file takes a CPU core during a sale. By default,
			// Redis rewrites it from 64 MB on.
			"--auto-aof-rewrite-min-size", "512mb",
		)
	}
	args = append(args, r.options.Args...)
	if err := r.start(exec.Command(program, args...)); err != nil { //nolint:gosec // our own settings
		return err
	}
	client := r.client()
	defer client.Close()
	return r.await(ctx, func(ctx context.Context) error { return r.isOurs(ctx, client) })
}

// answerTimeout is how long a server that may be paused is asked, if others can answer.
const answerTimeout = time.Second

// client returns a client that does not repeat a command.
func (r *Redis) client() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:                  r.addr,
		MaxRetries:            -1,
		ContextTimeoutEnabled: true,
	})
}

// do sends one command to the server.
func (r *Redis) do(ctx context.Context, args ...any) *redis.Cmd {
	client := r.client()
	defer client.Close()
	return client.Do(ctx, args...)
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

// stopAll stops servers in order, and all at the same time: a master that is stopped
// waits for its replicas.
func stopAll(ctx context.Context, servers []*Redis) error {
	faults := make([]error, len(servers))
	var stopped sync.WaitGroup
	for i, server := range servers {
		stopped.Go(func() { faults[i] = server.Stop(ctx) })
	}
	stopped.Wait()
	return errors.Join(faults...)
}

// killAll kills servers that did not come to work together.
func killAll(servers []*Redis) error {
	var faults []error
	for _, server := range servers {
		faults = append(faults, server.Kill())
	}
	return errors.Join(faults...)
}

// areLinked fails unless every replica is linked to its master, with all data copied.
func areLinked(ctx context.Context, replicas []*Redis) error {
	for _, replica := range replicas {
		info, err := replica.do(ctx, "info", "replication").Text()
		if err != nil {
			return err
		}
		if !strings.Contains(info, "master_link_status:up\r\n") {
			return fmt.Errorf("replica %s is not linked to its master", replica.addr)
		}
	}
	return nil
}

// addrs returns the addresses of servers, joined by commas as in an endpoint's URL.
func addrs(servers []*Redis) string {
	var list []string
	for _, server := range servers {
		list = append(list, server.addr)
	}
	return strings.Join(list, ",")
}
