package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
)

// errSuperseded is returned to a restorer that another one has taken the right from.
var errSuperseded = errors.New("another process has begun to restore Redis")

// errOtherServer is returned when Redis may have lost what was written to it so far. All of it is to be written again.
var errOtherServer = fmt.Errorf("%w: Redis restarted, or another took its place", errChanged)

const (
	writeBatch   = 8000 // commands in one transaction of Redis
	writeWorkers = 2    // transactions that are built and carried out side by side
)

// restoreWriter writes a pool's keys anew. Each of its transactions is carried out only while the next life's meta hash
// has the writer's epoch: one that lost its right, or comes late, changes nothing. And all of them go to one server: the
// hash may have survived a restart or a failover that lost what was written after it.
type restoreWriter struct {
	redis  *redis.Client
	pool   events.Pool
	epoch  int64
	server server
}

// guarded carries a batch out, whole or not at all.
func (w *restoreWriter) guarded(ctx context.Context, queue func(redis.Pipeliner)) error {
	return w.entitled(ctx, func(tx *redis.Tx) error {
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			queue(pipe)
			return nil
		})
		return err
	})
}

// entitled calls do if the writer may write. A transaction that do runs is carried out only if it still may then.
func (w *restoreWriter) entitled(ctx context.Context, do func(tx *redis.Tx) error) error {
	next := w.pool.NextMetaKey()
	err := w.redis.Watch(ctx, func(tx *redis.Tx) error { // on one connection, and so on one server
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

// remove deletes every key that follows from the pool's events, and reports how many it has deleted so far.
func (w *restoreWriter) remove(ctx context.Context, removed func(keys int64)) error {
	var cursor uint64
	var total int64
	for {
		var old []string
		err := w.entitled(ctx, func(tx *redis.Tx) error {
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

// forget trims the stream up to an entry, which is in the journal, as are all before it.
func (w *restoreWriter) forget(ctx context.Context, lastID string) error {
	err := w.guarded(ctx, func(pipe redis.Pipeliner) {
		pipe.XTrimMinID(ctx, w.pool.StreamKey(), lastID)
		pipe.XDel(ctx, w.pool.StreamKey(), lastID)
	})
	if err != nil {
		return fmt.Errorf("trim the stream: %w", err)
	}
	return nil
}

// write writes everything that a fold has come to, except that it opens nothing. It reports keys as they are written.
func (w *restoreWriter) write(ctx context.Context, f *fold, written func(keys int)) error {
	group, groupCtx := errgroup.WithContext(ctx)
	batches := make(chan [][]any, writeWorkers)
	group.Go(func() error {
		defer close(batches)
		builders, buildCtx := errgroup.WithContext(groupCtx)
		builders.Go(func() error { return w.holdCommands(buildCtx, f, batches) })
		builders.Go(func() error { return w.keyCommands(buildCtx, f, batches) })
		return builders.Wait()
	})
	for range writeWorkers {
		group.Go(func() error {
			for batch := range batches {
				err := w.guarded(groupCtx, func(pipe redis.Pipeliner) {
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
	return w.writeRecorded(ctx, f)
}

// commandBatch gathers commands for one transaction of Redis, and hands them on when there are enough.
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
	return handOn(ctx, b.out, full)
}

// holdCommands builds the commands that write stock, holds and the due set.
func (w *restoreWriter) holdCommands(ctx context.Context, f *fold, out chan<- [][]any) error {
	batch := &commandBatch{out: out}
	for sku, units := range f.stock {
		if err := batch.add(ctx, []any{"set", w.pool.StockKey(sku), units}); err != nil {
			return err
		}
	}
	for id, h := range f.holds {
		key := w.pool.HoldKey(id)
		second := []any{"zadd", w.pool.DueKey(), h.expiresAt, id}
		if h.state != HoldActive {
			second = []any{"pexpire", key, h.forgetAt - f.nowMs}
		}
		if err := batch.add(ctx, h.command(key), second); err != nil {
			return err
		}
	}
	return batch.flush(ctx)
}

// keyCommands builds the commands that write the idempotency keys.
func (w *restoreWriter) keyCommands(ctx context.Context, f *fold, out chan<- [][]any) error {
	batch := &commandBatch{out: out}
	for key, k := range f.keys {
		if err := batch.add(ctx, []any{"set", w.pool.IdempotencyKey(key), k.value(), "px", k.forgetAt - f.nowMs}); err != nil {
			return err
		}
	}
	return batch.flush(ctx)
}

// handOn gives a piece of work to who does the next step, or returns ctx's error.
func handOn[T any](ctx context.Context, out chan<- T, work T) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case out <- work:
		return nil
	}
}

// writeRecorded writes, into the next life's meta hash, the stock that the events account for. It comes alone and last:
// the transactions before it watch that hash.
func (w *restoreWriter) writeRecorded(ctx context.Context, f *fold) error {
	fields := make([]any, 0, 2*writeBatch)
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		err := w.guarded(ctx, func(pipe redis.Pipeliner) { pipe.HSet(ctx, w.pool.NextMetaKey(), fields...) })
		fields = fields[:0]
		if err != nil {
			return fmt.Errorf("write the recorded stock: %w", err)
		}
		return nil
	}
	for sku, units := range f.stock {
		if fields = append(fields, "stock:"+sku, units); len(fields) == 2*writeBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// server is one process of Redis and one line of data: a restart changes the first, and data taken over from another
// Redis change the second. While both stay as they are, what was written is there.
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

// redisNow is Redis's clock.
func redisNow(ctx context.Context, client *redis.Client) (ms int64, err error) {
	now, err := client.Time(ctx).Result()
	if err != nil {
		return 0, fmt.Errorf("read Redis's clock: %w", err)
	}
	return now.Truncate(time.Millisecond).UnixMilli(), nil
}
