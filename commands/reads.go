package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/wait"
)

// reads sends the reads of concurrent callers to Redis in shared round trips.
type reads struct{ pipeline *redis.AutoPipeliner }

func newReads(client redis.UniversalClient) (*reads, error) {
	options := redis.DefaultAutoPipelineOptions()
	options.MaxQueuedCommands = queuedMax
	options.Unordered = true // each caller waits for its answer before its next read
	pipeline, err := client.AsyncAutoPipelineWithOptions(options)
	if err != nil {
		return nil, fmt.Errorf("open a pipeline to Redis: %w", err)
	}
	return &reads{pipeline: pipeline}, nil
}

// closeMax is how long close waits for reads under way, whose callers have left by then.
const closeMax = 2 * time.Second

func (r *reads) close() error {
	if err := wait.AtMost(closeMax, r.pipeline.Close); err != nil {
		return fmt.Errorf("close the pipeline to Redis: %w", err)
	}
	return nil
}

// send returns when the command is answered, or with ctx's error when ctx ends. After
// that error the caller must not touch the command: its answer may still arrive.
func (r *reads) send(ctx context.Context, cmd redis.Cmder) error {
	return r.pipeline.Submit(ctx, cmd).WaitContext(ctx)
}

// text returns the string at a key, and whether the key exists.
func (r *reads) text(ctx context.Context, key string) (text string, exists bool, err error) {
	cmd := redis.NewStringCmd(ctx, "get", key)
	err = r.send(ctx, cmd)
	if errors.Is(err, redis.Nil) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return cmd.Val(), true, nil
}

// hashFields returns the values of a hash's fields, "" for each that is absent.
func (r *reads) hashFields(ctx context.Context, key string, fields ...string) ([]string, error) {
	args := []any{"hmget", key}
	for _, field := range fields {
		args = append(args, field)
	}
	cmd := redis.NewSliceCmd(ctx, args...)
	if err := r.send(ctx, cmd); err != nil {
		return nil, err
	}
	values := make([]string, len(fields))
	for i, value := range cmd.Val() {
		values[i], _ = value.(string)
	}
	return values, nil
}
