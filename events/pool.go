package events

import (
	"fmt"
	"regexp"
	"strings"
)

// Pool is the unit of atomicity and of order: one slot in a Redis Cluster, one stream,
// one sequence of seqs. Only its methods build the names of Redis keys; scripts receive
// the names as KEYS.
//
// The keys of the pool "main" have no prefix, so operators can type them as they are:
// stock:iphone. On a cluster, and in any other pool, keys begin with a hash tag,
// {eu}:stock:iphone, which puts them all into one slot.
type Pool struct {
	name   string
	prefix string
}

// MainPool is the pool that every installation starts with.
var MainPool = Pool{name: "main"}

// poolName matches the names of pools. A name is part of hold ids, table names and hash
// tags, so it has no separators, and differs from a seq.
var poolName = regexp.MustCompile(`^[a-z][a-z0-9]{1,15}$`)

// NewPool returns the pool with a name: 2 to 16 lowercase letters and digits, a letter
// first.
func NewPool(name string) (Pool, error) {
	switch {
	case name == MainPool.name:
		return MainPool, nil
	case !poolName.MatchString(name):
		return Pool{}, fmt.Errorf("pool %q: want 2 to 16 lowercase letters and digits, a letter first", name)
	}
	return Pool{name: name}.OnCluster(), nil
}

// ConsumerGroup is the consumer group on the stream whose position shows how far the
// journal has read.
const ConsumerGroup = "inventory.cg"

// OnCluster returns the pool as it is on a Redis Cluster, where all keys of a pool need a
// hash tag: {main}:stock:iphone.
func (p Pool) OnCluster() Pool { return Pool{name: p.name, prefix: "{" + p.name + "}:"} }

// HasTag reports whether the pool's keys begin with a hash tag.
func (p Pool) HasTag() bool { return p.prefix != "" }

// Name returns the pool's name, as the journal and the checkpoints store it.
func (p Pool) Name() string { return p.name }

// StockKey is the counter of the units of a SKU that are available now.
func (p Pool) StockKey(sku string) string { return p.prefix + "stock:" + sku }

// HoldKey is the hash with the state of a hold. It outlives the hold, so that a repeated
// command gets the same answer.
func (p Pool) HoldKey(holdID string) string { return p.prefix + "hold:" + holdID }

// IdempotencyKey stores the command that a client sent with an idempotency key, and the
// answer to it.
func (p Pool) IdempotencyKey(key string) string { return p.prefix + "idem:" + key }

// DueKey is the sorted set of live holds, by their deadline in milliseconds.
func (p Pool) DueKey() string { return p.prefix + "holds:due" }

// MetaKey is the hash with the log head (epoch and seq), and with the stock of each SKU
// as the events add up to it.
func (p Pool) MetaKey() string { return p.prefix + "inventory.meta" }

// ClosedMetaKey is the meta hash of a log that was closed in order to be rebuilt. As long
// as MetaKey does not exist, commands are refused.
func (p Pool) ClosedMetaKey() string { return p.MetaKey() + ".closed" }

// NextMetaKey is the meta hash of a log that is being rebuilt. Its epoch tells which
// process may write.
func (p Pool) NextMetaKey() string { return p.MetaKey() + ".next" }

// KeyPattern is a glob that matches all keys of the pool. It may match other keys, too.
func (p Pool) KeyPattern() string { return p.prefix + "*" }

// HasState reports whether a key holds state that follows from the pool's events: a stock
// counter, a hold, an idempotency key, or the set of due holds. The stream and the meta
// hash do not count.
func (p Pool) HasState(key string) bool {
	name, ours := strings.CutPrefix(key, p.prefix)
	if !ours {
		return false
	}
	for _, prefix := range []string{"stock:", "hold:", "idem:"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return key == p.DueKey()
}

// StreamKey is the stream of events. It is also the Watermill topic that events are
// published to.
func (p Pool) StreamKey() string { return p.prefix + "inventory.events" }
