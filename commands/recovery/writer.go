package recovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

// errSuperseded is returned to a restorer whose right to write another one has taken.
var errSuperseded = errors.New("another process has begun to restore Redis")

// errOtherServer is returned when Redis may have lost the keys written so far. All of them must be written
// again.
var errOtherServer = fmt.Errorf("%w: Redis restarted, or another took its place", errChanged)

const (
	writeBatch   = 8000 // commands in one transaction of Redis
	writeWorkers = 2    // concurrent transactions
)

// keyWriter writes a pool's keys during a restore. Redis carries out each of its transactions only while
// inventory.meta.next has the writer's epoch, so a writer that lost its right, or is late, changes nothing.
// All transactions must go to one server: inventory.meta.next may survive a restart or a failover that
// loses keys written after it.
type keyWriter struct {
	redis  *redis.Client
	pool   events.Pool
	epoch  int64
	server server
}

// transaction queues commands and carries them out, all or none.
func (w *keyWriter) transaction(ctx context.Context, queue func(redis.Pipeliner)) error {
	return w.ifEntitled(ctx, func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			queue(pipe)
			return nil
		})
		return err
	})
}

// ifEntitled calls do if the writer has the right to write. A transaction that do runs is carried out only
// if the writer still has it then.
func (w *keyWriter) ifEntitled(ctx context.Context, do func(tx *redis.Tx) error) error {
	next := w.pool.NextMetaKey()
	err := w.redis.Watch(ctx, func(tx *redis.Tx) error { // one connection, so one server
		found, err := readServer(ctx, tx)
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

// removeKeys deletes every key that follows from the pool's events, and reports how many it deleted so far.
func (w *keyWriter) removeKeys(ctx context.Context, removed func(keys int64)) error {
	var cursor uint64
	var total int64
	for {
		var old []string
		err := w.ifEntitled(ctx, func(tx *redis.Tx) error {
			keys, next, err := tx.Scan(ctx, cursor, w.pool.KeyPattern(), writeBatch).Result()
			if err != nil {
				return err
			}
			cursor = next
			for _, key := range keys {
				if w.pool.HasState(key) {
					old = append(old, key)
				}
			}
			if len(old) == 0 {
				return nil
			}
			_, err = tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error { return pipe.Unlink(ctx, old...).Err() })
			return err
		})
		if err != nil {
			return fmt.Errorf("remove old keys: %w", err)
		}
		if len(old) > 0 {
			total += int64(len(old))
			removed(total)
		}
		if cursor == 0 {
			return nil
		}
	}
}

// trimStream removes the stream's entries up to lastID. The journal has all of them.
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

// writeKeys writes the keys of a folded state. It opens no log. It reports keys as they are written.
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
						_ = pipe.Process(groupCtx, redis.NewCmd(groupCtx, words...)) // queued: it fails with the batch
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

// commandBatch collects commands for one transaction of Redis, and sends them when it is full.
type commandBatch struct {
	commands [][]any
	out      chan<- [][]any
}

func (b *commandBatch) add(ctx context.Context, commands ...[]any) error {
	if b.commands = append(b.commands, commands...); len(b.commands) < writeBatch {
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
		if h.state != commands.HoldActive {
			second = []any{"pexpire", key, h.forgetAt - s.nowMs}
		}
		if err := batch.add(ctx, h.command(key), second); err != nil {
			return err
		}
	}
	return batch.flush(ctx)
}

// keyCommands builds the commands that write the idempotency keys.
func (w *keyWriter) keyCommands(ctx context.Context, s *state, out chan<- [][]any) error {
	batch := &commandBatch{out: out}
	for key, k := range s.keys {
		if err := batch.add(ctx, []any{"set", w.pool.IdempotencyKey(key), k.value(), "px", k.forgetAt - s.nowMs}); err != nil {
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

// writeRecorded writes the stock that the events account for into inventory.meta.next. It runs alone and
// last, because the transactions before it watch that hash.
func (w *keyWriter) writeRecorded(ctx context.Context, s *state) error {
	fields := make([]any, 0, 2*writeBatch)
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		err := w.transaction(ctx, func(pipe redis.Pipeliner) { pipe.HSet(ctx, w.pool.NextMetaKey(), fields...) })
		fields = fields[:0]
		if err != nil {
			return fmt.Errorf("write the recorded stock: %w", err)
		}
		return nil
	}
	for sku, units := range s.stock {
		if fields = append(fields, "stock:"+sku, units); len(fields) == 2*writeBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// server is one process of Redis and one line of data: a restart changes the first, and data taken over from another
// Redis change the second. While found stay as they are, what was written is there.
type server struct {
	runID, replicationID string
}

// readServer asks which server answers. Scripts ask the same way; see lua/publish_log.lua.
func readServer(ctx context.Context, client redis.Cmdable) (server, error) {
	info, err := client.InfoMap(ctx, "server", "replication").Result()
	if err != nil {
		return server{}, fmt.Errorf("ask which Redis answers: %w", err)
	}
	found := server{runID: info["Server"]["run_id"], replicationID: info["Replication"]["master_replid"]}
	if found.runID == "" || found.replicationID == "" {
		return server{}, errors.New("ask which Redis answers: INFO tells no run_id, or no master_replid")
	}
	return found, nil
}

// redisNow returns Redis's clock, in ms.
func redisNow(ctx context.Context, client *redis.Client) (ms int64, err error) {
	now, err := client.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("read Redis's clock: %w", err)
	}
	return now.Truncate(time.Millisecond).UnixMilli(), nil
}
