package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Sentinel is a master and its replicas, with three Sentinels that promote a replica if
// the master fails. It is for tests: a master counts as failed after one second.
//
// Master finds the present master. The list of nodes does not change with a failover.
type Sentinel struct {
	Nodes     []*Redis // the first starts as the master, the others as its replicas
	Sentinels []*Redis
}

const (
	sentinels  = 3
	masterName = "stock" // what the Sentinels call the master
)

// StartSentinel starts a master with replicas and three Sentinels below a new directory.
// It waits until every replica follows the master and every Sentinel knows all the
// others.
func StartSentinel(ctx context.Context, dir string, replicas int) (*Sentinel, error) {
	s := &Sentinel{}
	err := s.startNodes(ctx, dir, replicas)
	if err == nil {
		err = s.startSentinels(ctx, dir)
	}
	if err != nil {
		return nil, errors.Join(err, killAll(s.all()))
	}
	return s, nil
}

// startNodes starts the master and its replicas. Each has a configuration file, to which
// the Sentinels write its role, so that it keeps its role over a restart.
func (s *Sentinel) startNodes(ctx context.Context, dir string, replicas int) error {
	for i := range 1 + replicas {
		config := ""
		if i > 0 {
			host, port, err := net.SplitHostPort(s.Nodes[0].addr)
			if err != nil {
				return err
			}
			config = fmt.Sprintf("replicaof %s %s\n", host, port)
		}
		node, err := startWithConfig(ctx, config, RedisOptions{
			Dir:  filepath.Join(dir, fmt.Sprintf("node-%d", i+1)),
			Args: []string{"--repl-diskless-sync-delay", "0"},
		})
		if err != nil {
			return err
		}
		s.Nodes = append(s.Nodes, node)
	}
	return awaitAll(ctx, "the master with its replicas", func(ctx context.Context) error {
		return areLinked(ctx, s.Nodes[1:])
	})
}

// startSentinels starts the Sentinels. The replicas follow the master by then: a Sentinel
// asks the master for them at once, and then only every ten seconds.
func (s *Sentinel) startSentinels(ctx context.Context, dir string) error {
	host, port, err := net.SplitHostPort(s.Nodes[0].addr)
	if err != nil {
		return err
	}
	const quorum = 2
	config := strings.Join([]string{
		fmt.Sprintf("sentinel monitor %s %s %s %d", masterName, host, port, quorum),
		fmt.Sprintf("sentinel down-after-milliseconds %s 1000", masterName),
		fmt.Sprintf("sentinel failover-timeout %s 3000", masterName),
		"",
	}, "\n")
	for i := range sentinels {
		sentinel, err := startWithConfig(ctx, config, RedisOptions{
			Dir:        filepath.Join(dir, fmt.Sprintf("sentinel-%d", i+1)),
			isSentinel: true,
		})
		if err != nil {
			return err
		}
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	return awaitAll(ctx, "the trio of Sentinels", s.isReady)
}

// startWithConfig starts a server with a configuration file in its data directory, which
// it rewrites.
func startWithConfig(ctx context.Context, config string, options RedisOptions) (*Redis, error) {
	options.config = filepath.Join(options.Dir, "redis.conf")
	err := errors.Join(
		os.MkdirAll(options.Dir, 0o700),
		os.WriteFile(options.config, []byte(config), 0o600),
	)
	if err != nil {
		return nil, fmt.Errorf("write the configuration of Redis: %w", err)
	}
	return StartRedis(ctx, options)
}

// isReady fails until every Sentinel knows the replicas and the other Sentinels.
func (s *Sentinel) isReady(ctx context.Context) error {
	want := fmt.Sprintf("master0:name=%s,status=ok,address=%s,slaves=%d,sentinels=%d\r\n",
		masterName, s.Nodes[0].addr, len(s.Nodes)-1, sentinels)
	for _, sentinel := range s.Sentinels {
		info, err := sentinel.do(ctx, "info", "sentinel").Text()
		if err != nil {
			return err
		}
		if !strings.Contains(info, want) {
			return fmt.Errorf("Sentinel %s does not say %q yet, but:\n%s", sentinel.addr, want, info)
		}
	}
	return nil
}

// Master returns the node that the first Sentinel that answers calls the master. Until a
// failover is done, that is the master that failed.
func (s *Sentinel) Master(ctx context.Context) (*Redis, error) {
	var faults []error
	for _, sentinel := range s.Sentinels {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		addr, err := sentinel.do(limited, "sentinel", "get-master-addr-by-name", masterName).StringSlice()
		cancel()
		if err != nil || len(addr) != 2 {
			faults = append(faults, fmt.Errorf("Sentinel %s answers %v: %w", sentinel.addr, addr, err))
			continue
		}
		for _, node := range s.Nodes {
			if node.addr == net.JoinHostPort(addr[0], addr[1]) {
				return node, nil
			}
		}
		return nil, fmt.Errorf("Sentinel %s calls %v the master, which is none of the nodes", sentinel.addr, addr)
	}
	return nil, fmt.Errorf("no Sentinel answers: %w", errors.Join(faults...))
}

// Stop shuts all servers down in order.
func (s *Sentinel) Stop(ctx context.Context) error { return stopAll(ctx, s.all()) }

// URL returns the endpoint, with the addresses of the Sentinels and the master's name.
func (s *Sentinel) URL() string { return "redis+sentinel://" + addrs(s.Sentinels) + "/" + masterName }

func (s *Sentinel) all() []*Redis { return slices.Concat(s.Nodes, s.Sentinels) }
