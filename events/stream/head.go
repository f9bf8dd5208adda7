package stream

import (
	"context"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Head is the head of a pool's log, as Redis records it.
type Head struct {
	Exists bool // false if Redis has no log that a command could append to; then only Unfinished may be set
	// Unfinished is true if a call of the decide script appended events and then broke
	// off. Redis has to be restored from the journal.
	Unfinished bool
	Epoch      int64 // the number of this log, from 1; see journal.RaiseEpoch
	Seq        int64 // the highest seq assigned
	// Server is the master_replid of the Redis on which this log was last compared with
	// the journal. Commands are decided on that one only.
	Server string
}

// unfinished stands in place of the seq during a call of the decide script, and for good
// if the call broke off.
const unfinished = "unfinished"

// ReadHead returns the head of a pool's log. Errors are those of Redis.
func ReadHead(ctx context.Context, client redis.Cmdable, pool events.Pool) (Head, error) {
	return readHead(ctx, client, pool.MetaKey())
}

// ReadClosedHead returns the head of a log that was closed in order to be rebuilt.
func ReadClosedHead(ctx context.Context, client redis.Cmdable, pool events.Pool) (Head, error) {
	return readHead(ctx, client, pool.ClosedMetaKey())
}

func readHead(ctx context.Context, client redis.Cmdable, key string) (Head, error) {
	fields, err := client.HMGet(ctx, key, "epoch", "seq", "server").Result()
	if err != nil {
		return Head{}, fmt.Errorf("read %s: %w", key, err)
	}
	epoch, epochErr := strconv.ParseInt(events.FieldText(fields[0]), 10, 64)
	seq, seqErr := strconv.ParseInt(events.FieldText(fields[1]), 10, 64)
	if epochErr != nil || seqErr != nil {
		//nolint:nilerr // the scripts do not accept such a log either
		return Head{Unfinished: events.FieldText(fields[1]) == unfinished}, nil
	}
	return Head{
		Exists: true,
		Epoch:  epoch,
		Seq:    seq,
		Server: events.FieldText(fields[2]),
	}, nil
}
