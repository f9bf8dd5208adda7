package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Cluster is a Redis Cluster of three masters and three replicas. It is for tests: a node
// counts as failed after two seconds.
//
// The lists say with which role a node started. A failover changes the roles, and not the
// lists: MasterOf finds the present master of a slot.
type Cluster struct {
	Masters  []*Redis
	Replicas []*Redis // Replicas[i] starts as the replica of Masters[i]
}

const (
	clusterMasters = 3
	clusterSlots   = 16384
)

// StartCluster starts a Redis Cluster below a new directory, and waits until every node
// sees all the others and every replica follows its master.
func StartCluster(ctx context.Context, dir string) (*Cluster, error) {
	c := &Cluster{}
	err := c.startNodes(ctx, dir)
	if err == nil {
		err = c.form(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a Redis Cluster: %w", err), killAll(c.Nodes()))
	}
	return c, nil
}

// startNodes starts six nodes that know nothing of each other.
func (c *Cluster) startNodes(ctx context.Context, dir string) error {
	for i := range clusterMasters {
		master, err := startNode(ctx, filepath.Join(dir, fmt.Sprintf("master-%d", i+1)))
		if err != nil {
			return err
		}
		c.Masters = append(c.Masters, master)
		replica, err := startNode(ctx, filepath.Join(dir, fmt.Sprintf("replica-%d", i+1)))
		if err != nil {
			return err
		}
		c.Replicas = append(c.Replicas, replica)
	}
	return nil
}

// startNode starts a node with a free bus port. By default, the bus port is the port plus
// 10,000, which may be taken or too high.
func startNode(ctx context.Context, dir string) (*Redis, error) {
	var node *Redis
	err := startOn("", func(_ string, busPort int) error {
		var err error
		node, err = StartRedis(ctx, RedisOptions{
			Dir: dir,
			Args: []string{
				"--cluster-enabled", "yes",
				"--cluster-port", strconv.Itoa(busPort),
				"--cluster-node-timeout", "2000",
				"--cluster-require-full-coverage", "no",
				"--repl-diskless-sync-delay", "0",
			},
		})
		return err
	})
	return node, err
}

// form makes one cluster of the nodes, in three steps.
//
//  1. Each master takes a third of the slots, and an epoch of its own: masters with the
//     same epoch would have to agree on new ones.
//  2. Every node meets every other, which is faster than gossip.
//  3. Each replica follows its master.
func (c *Cluster) form(ctx context.Context) error {
	for i, master := range c.Masters {
		first := clusterSlots * i / clusterMasters
		last := clusterSlots*(i+1)/clusterMasters - 1
		err := errors.Join(
			master.do(ctx, "cluster", "addslotsrange", first, last).Err(),
			master.do(ctx, "cluster", "set-config-epoch", i+1).Err(),
		)
		if err != nil {
			return err
		}
	}
	for i, node := range c.Nodes() {
		for _, earlier := range c.Nodes()[:i] {
			if err := earlier.meet(ctx, node); err != nil {
				return err
			}
		}
	}
	if err := awaitAll(ctx, "the Redis Cluster", c.haveMet); err != nil {
		return err
	}
	for i, replica := range c.Replicas {
		master, err := c.Masters[i].clusterNode(ctx)
		if err != nil {
			return err
		}
		if err := replica.do(ctx, "cluster", "replicate", master.id).Err(); err != nil {
			return err
		}
	}
	return awaitAll(ctx, "the Redis Cluster", c.isReady)
}

// meet makes two nodes of a cluster known to each other.
func (r *Redis) meet(ctx context.Context, other *Redis) error {
	host, port, err := net.SplitHostPort(other.addr)
	if err != nil {
		return err
	}
	node, err := other.clusterNode(ctx)
	if err != nil {
		return err
	}
	return r.do(ctx, "cluster", "meet", host, port, node.busPort).Err()
}

// haveMet fails until every node knows all nodes by their ids.
func (c *Cluster) haveMet(ctx context.Context) error {
	for _, node := range c.Nodes() {
		known, err := node.clusterNodes(ctx)
		if err != nil {
			return err
		}
		known = slices.DeleteFunc(known, func(n clusterNode) bool { return n.has("handshake") })
		if got, want := len(known), len(c.Nodes()); got != want {
			return fmt.Errorf("node %s knows %d nodes, want %d", node.addr, got, want)
		}
	}
	return nil
}

// isReady fails until every node serves and sees all slots and all replicas, and every
// replica is linked to its master.
func (c *Cluster) isReady(ctx context.Context) error {
	for _, node := range c.Nodes() {
		info, err := node.do(ctx, "cluster", "info").Text()
		if err != nil {
			return err
		}
		for _, want := range []string{
			"cluster_state:ok\r\n",
			fmt.Sprintf("cluster_slots_ok:%d\r\n", clusterSlots),
			fmt.Sprintf("cluster_known_nodes:%d\r\n", len(c.Nodes())),
			fmt.Sprintf("cluster_size:%d\r\n", clusterMasters),
		} {
			if !strings.Contains(info, want) {
				return fmt.Errorf("node %s does not say %q yet, but:\n%s", node.addr, want, info)
			}
		}
		known, err := node.clusterNodes(ctx)
		if err != nil {
			return err
		}
		known = slices.DeleteFunc(known, func(n clusterNode) bool { return !n.has("slave") })
		if got, want := len(known), len(c.Replicas); got != want {
			return fmt.Errorf("node %s knows %d replicas, want %d", node.addr, got, want)
		}
	}
	return areLinked(ctx, c.Replicas)
}

// Nodes returns the nodes, with those that started as masters first.
func (c *Cluster) Nodes() []*Redis { return slices.Concat(c.Masters, c.Replicas) }

// MasterOf returns the node that serves a slot. It asks each node for itself, so it fails
// as long as the slot's master does not answer and no replica is promoted.
func (c *Cluster) MasterOf(ctx context.Context, slot int) (*Redis, error) {
	var master *Redis
	var epoch int
	var faults []error
	for _, node := range c.Nodes() {
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		itself, err := node.clusterNode(limited)
		cancel()
		switch {
		case err != nil:
			faults = append(faults, err)
		case itself.serves(slot) && itself.epoch >= epoch:
			// A master that was away may not know yet that it was replaced. Its epoch
			// is lower.
			master = node
			epoch = itself.epoch
		}
	}
	if master == nil {
		return nil, fmt.Errorf("no node says that it serves slot %d: %w", slot, errors.Join(faults...))
	}
	return master, nil
}

// Stop shuts all nodes down in order.
func (c *Cluster) Stop(ctx context.Context) error { return stopAll(ctx, c.Nodes()) }

// URL returns the cluster's endpoint, with the addresses of all nodes.
func (c *Cluster) URL() string { return "redis+cluster://" + addrs(c.Nodes()) }

// clusterNode is a line of CLUSTER NODES: a node of a cluster as one of them sees it.
type clusterNode struct {
	id      string
	busPort string
	flags   []string
	epoch   int
	slots   []string // ranges, such as 0-5460
}

// clusterNodes returns the nodes that a node knows, itself among them.
func (r *Redis) clusterNodes(ctx context.Context) ([]clusterNode, error) {
	text, err := r.do(ctx, "cluster", "nodes").Text()
	if err != nil {
		return nil, err
	}
	var nodes []clusterNode
	for line := range strings.Lines(text) {
		// id, host:port@busPort, flags, master, ping, pong, epoch, link, slots
		const slotsField = 8
		fields := strings.Fields(line)
		if len(fields) < slotsField {
			return nil, fmt.Errorf("a line of CLUSTER NODES has too few fields: %s", line)
		}
		_, busPort, _ := strings.Cut(fields[1], "@")
		busPort, _, _ = strings.Cut(busPort, ",") // a host name may follow
		epoch, err := strconv.Atoi(fields[6])
		if err != nil {
			return nil, fmt.Errorf("the epoch in a line of CLUSTER NODES: %w", err)
		}
		nodes = append(nodes, clusterNode{
			id:      fields[0],
			busPort: busPort,
			flags:   strings.Split(fields[2], ","),
			epoch:   epoch,
			slots:   fields[slotsField:],
		})
	}
	return nodes, nil
}

// clusterNode returns a node as it sees itself.
func (r *Redis) clusterNode(ctx context.Context) (clusterNode, error) {
	nodes, err := r.clusterNodes(ctx)
	if err != nil {
		return clusterNode{}, err
	}
	i := slices.IndexFunc(nodes, func(n clusterNode) bool { return n.has("myself") })
	if i < 0 {
		return clusterNode{}, fmt.Errorf("node %s does not list itself in CLUSTER NODES", r.addr)
	}
	return nodes[i], nil
}

func (n clusterNode) has(flag string) bool { return slices.Contains(n.flags, flag) }

// serves reports whether the node is the master of a slot.
func (n clusterNode) serves(slot int) bool {
	return n.has("master") && slices.ContainsFunc(n.slots, func(slots string) bool {
		first, last, isRange := strings.Cut(slots, "-")
		if !isRange {
			last = first
		}
		from, fromErr := strconv.Atoi(first)
		to, toErr := strconv.Atoi(last)
		return fromErr == nil && toErr == nil && from <= slot && slot <= to
	})
}
