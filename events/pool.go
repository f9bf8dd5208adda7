package events

import (
	"strings"
)

// Pool is the unit of atomicity and order: one slot in Redis, one stream, one sequence. It is also the only place
// where names of keys are made; scripts receive them ready.
//
// The pool "main" carries no prefix, so that its keys read as they are typed: stock:iphone. Any other pool is
// hash-tagged ({eu}:stock:iphone), which keeps all its keys in one slot of a Redis Cluster.
type Pool struct {
	name   string
	prefix string
}

// MainPool is the pool every installation starts with.
var MainPool = Pool{name: "main"}

// Name is the pool's name as the journal and the checkpoints store it.
func (p Pool) Name() string { return p.name }

// StockKey is the counter of units available now.
func (p Pool) StockKey(sku string) string { return p.prefix + "stock:" + sku }

// HoldKey is the hash that says how a hold stands. It outlives the hold, so that repeats get the same answer.
func (p Pool) HoldKey(holdID string) string { return p.prefix + "hold:" + holdID }

// IdempotencyKey remembers what a client's key stood for, and what it was answered.
func (p Pool) IdempotencyKey(key string) string { return p.prefix + "idem:" + key }

// DueKey is the sorted set of live holds by their deadline in milliseconds.
func (p Pool) DueKey() string { return p.prefix + "holds:due" }

// MetaKey is the hash with the pool's epoch and seq, and the stock that events have recorded per SKU.
func (p Pool) MetaKey() string { return p.prefix + "inventory.meta" }

// ClosedMetaKey is where the meta hash lies while the log is closed to be written anew.
func (p Pool) ClosedMetaKey() string { return p.MetaKey() + ".closed" }

// NextMetaKey is where the meta hash of a log's next life is built. Its epoch says who may write.
func (p Pool) NextMetaKey() string { return p.MetaKey() + ".next" }

// KeyPattern is a glob that all of the pool's keys match, and maybe others.
func (p Pool) KeyPattern() string { return p.prefix + "*" }

// HasState reports whether a key holds what follows from the pool's events: a counter of stock, a hold, an idempotency
// key or the set of due holds. The stream and the meta hash are none of these.
func (p Pool) HasState(key string) bool {
	rest, ours := strings.CutPrefix(key, p.prefix)
	return ours && (strings.HasPrefix(rest, "stock:") || strings.HasPrefix(rest, "hold:") || strings.HasPrefix(rest, "idem:") || key == p.DueKey())
}

// StreamKey is the stream of events, and the Watermill topic they are published to.
func (p Pool) StreamKey() string { return p.prefix + "inventory.events" }

// ConsumerGroup is the group that shows on the stream how far the journal has come.
const ConsumerGroup = "inventory.cg"
