package events

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Log is what Redis says of a pool's log.
type Log struct {
	Exists bool  // false where Redis has no log that a command could go on with; the rest is 0 then
	Epoch  int64 // the life of the log, from 1
	Seq    int64 // the highest seq that was assigned
}

// ReadLog returns what Redis says of a pool's log. Its error is Redis's.
func ReadLog(ctx context.Context, client redis.Cmdable, pool Pool) (Log, error) {
	return readLog(ctx, client, pool.MetaKey())
}

// ReadClosedLog returns what is left of a log that was closed to be written anew.
func ReadClosedLog(ctx context.Context, client redis.Cmdable, pool Pool) (Log, error) {
	return readLog(ctx, client, pool.ClosedMetaKey())
}

func readLog(ctx context.Context, client redis.Cmdable, key string) (Log, error) {
	fields, err := client.HMGet(ctx, key, "epoch", "seq").Result()
	if err != nil {
		return Log{}, fmt.Errorf("read %s: %w", key, err)
	}
	epoch, epochErr := strconv.ParseInt(text(fields[0]), 10, 64)
	seq, seqErr := strconv.ParseInt(text(fields[1]), 10, 64)
	if epochErr != nil || seqErr != nil {
		return Log{}, nil //nolint:nilerr // the scripts see no log here either
	}
	return Log{Exists: true, Epoch: epoch, Seq: seq}, nil
}
