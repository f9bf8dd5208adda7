package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/wait"
)

// reads sends what concurrent callers read to Redis together, which saves most of the cost of a round trip.
type reads struct{ pipeline *redis.AutoPipeliner }

func newReads(client *redis.Client) (*reads, error) {
	options := redis.DefaultAutoPipelineOptions()
	options.MaxQueuedCommands = queuedMax
	options.Unordered = true // who depends on an answer waits for it
	pipeline, err := client.AsyncAutoPipelineWithOptions(options)
	if err != nil {
		return nil, fmt.Errorf("pipeline to Redis: %w", err)
	}
	return &reads{pipeline: pipeline}, nil
}

// closeMax is how long reads that are under way may take to end. Nobody waits for their answers any more.
const closeMax = 2 * time.Second

func (r *reads) close() error {
	if err := wait.AtMost(closeMax, r.pipeline.Close); err != nil {
		return fmt.Errorf("end the reads of Redis: %w", err)
	}
	return nil
}

// send returns when the command was answered, or when ctx ends. In the second case nobody may look at it any more.
func (r *reads) send(ctx context.Context, cmd redis.Cmder) error {
	return r.pipeline.Submit(ctx, cmd).WaitContext(ctx)
}

// text returns the string at a key, and whether there is one.
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

// hashFields returns some fields of a hash, "" for those that are not there.
func (r *reads) hashFields(ctx context.Context, key string, fields ...string) ([]string, error) {
	words := []any{"hmget", key}
	for _, field := range fields {
		words = append(words, field)
	}
	cmd := redis.NewSliceCmd(ctx, words...)
	if err := r.send(ctx, cmd); err != nil {
		return nil, err
	}
	texts := make([]string, len(fields))
	for i, value := range cmd.Val() {
		texts[i], _ = value.(string)
	}
	return texts, nil
}
