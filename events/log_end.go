package events

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// LogEnd returns the highest seq that a pool has assigned, and whether Redis has a log for it at all.
func LogEnd(ctx context.Context, client redis.Cmdable, pool Pool) (seq int64, exists bool, err error) {
	seq, err = client.HGet(ctx, pool.MetaKey(), "seq").Int64()
	switch {
	case errors.Is(err, redis.Nil):
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("read the end of the log: %w", err)
	}
	return seq, true, nil
}
