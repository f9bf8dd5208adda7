package stream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Head is what Redis says of a pool's log.
type Head struct {
	Exists bool  // false where Redis has no log that a command could go on with; the rest is 0 then
	Epoch  int64 // the life of the log, from 1
	Seq    int64 // the highest seq that was assigned
}

// ReadHead returns what Redis says of a pool's log. Its error is Redis's.
func ReadHead(ctx context.Context, client redis.Cmdable, pool events.Pool) (Head, error) {
	return readHead(ctx, client, pool.MetaKey())
}

// ReadClosedHead returns what is left of a log that was closed to be written anew.
func ReadClosedHead(ctx context.Context, client redis.Cmdable, pool events.Pool) (Head, error) {
	return readHead(ctx, client, pool.ClosedMetaKey())
}

func readHead(ctx context.Context, client redis.Cmdable, key string) (Head, error) {
	fields, err := client.HMGet(ctx, key, "epoch", "seq").Result()
	if err != nil {
		return Head{}, fmt.Errorf("read %s: %w", key, err)
	}
	epoch, epochErr := strconv.ParseInt(events.FieldText(fields[0]), 10, 64)
	seq, seqErr := strconv.ParseInt(events.FieldText(fields[1]), 10, 64)
	if epochErr != nil || seqErr != nil {
		return Head{}, nil //nolint:nilerr // the scripts see no log here either
	}
	return Head{Exists: true, Epoch: epoch, Seq: seq}, nil
}
