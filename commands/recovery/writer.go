package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
)

// errSuperseded is returned to a restorer after another process began to restore Redis
// with a later epoch.
var errSuperseded = errors.New("another process began to restore Redis")

// errOtherServer is returned if Redis may have lost keys that were already written. The
// restore must write all of them again.
var errOtherServer = fmt.Errorf("%w: Redis restarted, or another Redis took its place", errChanged)

const (
	writeBatch   = 8000 // commands in one transaction of Redis
	writeWorkers = 2    // concurrent transactions
)

// keyWriter writes a pool's keys during a restore. It has the right to write while
// inventory.meta.next has its epoch. Every transaction watches that key, so Redis does
// not execute one that comes after another writer began. All transactions must reach the
// same server: a restart or a failover may keep inventory.meta.next and lose keys that
// were written after it.
type keyWriter struct {
	redis  redis.UniversalClient
	pool   events.Pool
	epoch  int64
	server stream.Server

	keepsKeys bool // the pool's other keys stay, so ended holds must leave the due set
}

// transaction executes the commands that queue adds, all or none.
func (w *keyWriter) transaction(ctx context.Context, queue func(redis.Pipeliner)) error {
	return w.ifEntitled(ctx, func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			queue(pipe)
			return nil
		})
		return err
	})
}

// ifEntitled calls do if the writer has the right to write. Redis executes a transaction
// of do only if the writer still has that right then.
func (w *keyWriter) ifEntitled(ctx context.Context, do func(tx *redis.Tx) error) error {
	next := w.pool.NextMetaKey()
	err := w.redis.Watch(ctx, func(tx *redis.Tx) error { // one connection, so one server
		found, err := stream.ReadServer(ctx, tx, w.pool)
		if err != nil {
			return err
		}
		if found != w.server {
			return errOtherServer
		}
		epoch, err := tx.HGet(ctx, next, "epoch").Int64()
		if errors.Is(err, redis.Nil) || err == nil && epoch != w.epoch {
			return errSuperseded
		}
		if err != nil {
			return err
		}
		return do(tx)
	}, next)
	if errors.Is(err, redis.TxFailedErr) {
		return errSuperseded
	}
	return err
}

// removeKeys deletes every key of the pool that the scripts derive from its events, and
// no key of another program (see ownKeys). It calls removed with the number of keys
// deleted so far.
func (w *keyWriter) removeKeys(ctx context.Context, s *state, removed func(keys int64)) error {
	recorded, err := w.recordedStock(ctx)
	if err != nil {
		return fmt.Errorf("read the closed log: %w", err)
	}
	var cursor uint64
	var total int64
	for {
		var old []string
		var next uint64
		err := w.ifEntitled(ctx, func(tx *redis.Tx) (err error) { // a cluster's client may call it again
			var keys []string
			keys, next, err = tx.Scan(ctx, cursor, w.pool.KeyPattern(), writeBatch).Result()
			if err != nil {
				return err
			}
			if old, err = w.ownKeys(ctx, tx, s, recorded, keys); err != nil || len(old) == 0 {
				return err
			}
			_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
				return pipe.Unlink(ctx, old...).Err()
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old keys: %w", err)
		}
		cursor = next
		if len(old) > 0 {
			total += int64(len(old))
			removed(total)
		}
		if cursor == 0 {
			return nil
		}
	}
}

// trimStream removes the stream's entries up to and including lastID. The journal has all
// of them, or an operator discarded them.
func (w *keyWriter) trimStream(ctx context.Context, lastID string) error {
	err := w.transaction(ctx, func(pipe redis.Pipeliner) {
		pipe.XTrimMinID(ctx, w.pool.StreamKey(), lastID)
		pipe.XDel(ctx, w.pool.StreamKey(), lastID)
	})
	if err != nil {
		return fmt.Errorf("trim the stream: %w", err)
	}
	return nil
}

// writeKeys writes the keys of a folded state: holdCommands and keyCommands build batches
// of commands, and writeWorkers goroutines execute them. It calls written with the number
// of commands of each batch. It does not open the log.
func (w *keyWriter) writeKeys(ctx context.Context, s *state, written func(keys int)) error {
	group, groupCtx := errgroup.WithContext(ctx)
	batches := make(chan [][]any, writeWorkers)
	group.Go(func() error {
		defer close(batches)
		builders, buildCtx := errgroup.WithContext(groupCtx)
		builders.Go(func() error { return w.holdCommands(buildCtx, s, batches) })
		builders.Go(func() error { return w.keyCommands(buildCtx, s, batches) })
		return builders.Wait()
	})
	for range writeWorkers {
		group.Go(func() error {
			for batch := range batches {
				err := w.transaction(groupCtx, func(pipe redis.Pipeliner) {
					for _, words := range batch {
						// Process only queues the command; its error is that of the
						// transaction.
						_ = pipe.Process(groupCtx, redis.NewCmd(groupCtx, words...))
					}
				})
				if err != nil {
					return fmt.Errorf("write keys: %w", err)
				}
				written(len(batch))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return w.writeRecorded(ctx, s)
}

// commandBatch collects commands for one transaction, and sends them to out when
// writeBatch are reached.
type commandBatch struct {
	commands [][]any
	out      chan<- [][]any
}

func (b *commandBatch) add(ctx context.Context, commands ...[]any) error {
	b.commands = append(b.commands, commands...)
	if len(b.commands) < writeBatch {
		return nil
	}
	return b.flush(ctx)
}

func (b *commandBatch) flush(ctx context.Context) error {
	full := b.commands
	b.commands = make([][]any, 0, writeBatch+2)
	return send(ctx, b.out, full)
}

// holdCommands builds the commands that write stock, holds and the due set.
func (w *keyWriter) holdCommands(ctx context.Context, s *state, out chan<- [][]any) error {
	batch := &commandBatch{out: out}
	for sku, units := range s.stock {
		if err := batch.add(ctx, []any{"set", w.pool.StockKey(sku), units}); err != nil {
			return err
		}
	}
	for id, h := range s.holds {
		key := w.pool.HoldKey(id)
		second := []any{"zadd", w.pool.DueKey(), h.expiresAt, id}
		if h.state != events.StatusActive {
			second = []any{"pexpire", key, h.forgetAt - s.nowMs}
		}
		first := h.command(key)
		if s.keepMs > commands.KeepMemoryMin.Milliseconds() {
			first = append(first, "keep_ms", s.keepMs)
		}
		words := [][]any{first, second}
		if w.keepsKeys && h.state != events.StatusActive {
			words = append(words, []any{"zrem", w.pool.DueKey(), id})
		}
		if err := batch.add(ctx, words...); err != nil {
			return err
		}
	}
	return batch.flush(ctx)
}

// keyCommands builds the commands that write the idempotency keys.
func (w *keyWriter) keyCommands(ctx context.Context, s *state, out chan<- [][]any) error {
	batch := &commandBatch{out: out}
	for key, k := range s.keys {
		set := []any{"set", w.pool.IdempotencyKey(key), k.value(), "px", k.forgetAt - s.nowMs}
		if err := batch.add(ctx, set); err != nil {
			return err
		}
	}
	return batch.flush(ctx)
}

// send sends work to a channel, or returns ctx's error if ctx ends first.
func send[T any](ctx context.Context, out chan<- T, work T) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case out <- work:
		return nil
	}
}

// writeRecorded writes the recorded stock, the sum of each SKU's events, into
// inventory.meta.next. It runs after all other transactions, because they watch that hash
// and would fail if it changed.
func (w *keyWriter) writeRecorded(ctx context.Context, s *state) error {
	fields := make([]any, 0, 2*writeBatch)
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		err := w.transaction(ctx, func(pipe redis.Pipeliner) {
			pipe.HSet(ctx, w.pool.NextMetaKey(), fields...)
		})
		fields = fields[:0]
		if err != nil {
			return fmt.Errorf("write the recorded stock: %w", err)
		}
		return nil
	}
	for sku, units := range s.stock {
		fields = append(fields, "stock:"+sku, units)
		if len(fields) == 2*writeBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
