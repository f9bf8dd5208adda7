package commands

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// pipeline sends the commands of concurrent callers to Redis together, which saves most of the cost of a round trip.
type pipeline struct {
	redis.Scripter // for what is not overridden below: loading scripts
	shared         *redis.AutoPipeliner
}

// queuedMax bounds what waits for a Redis that does not answer; beyond it, commands fail at once.
const queuedMax = 10_000

func newPipeline(client *redis.Client) (*pipeline, error) {
	options := redis.DefaultAutoPipelineOptions()
	options.MaxQueuedCommands = queuedMax
	// Two streams of batches keep Redis and this process busy at once. Their order does not matter: who depends on a
	// command waits for it.
	options.NumShards, options.MaxConcurrentBatches, options.Unordered = 2, 2, true
	shared, err := client.AsyncAutoPipelineWithOptions(options)
	if err != nil {
		return nil, fmt.Errorf("pipeline to Redis: %w", err)
	}
	return &pipeline{Scripter: client, shared: shared}, nil
}

// send returns when the command was answered, or when ctx ends. In the second case the command may still be carried
// out, and nobody may look at it any more.
func (p *pipeline) send(ctx context.Context, cmd redis.Cmder) error {
	return p.shared.Submit(ctx, cmd).WaitContext(ctx)
}

// EvalSha implements redis.Scripter.
func (p *pipeline) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	return p.eval(ctx, "evalsha", sha1, keys, args)
}

// Eval implements redis.Scripter.
func (p *pipeline) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return p.eval(ctx, "eval", script, keys, args)
}

func (p *pipeline) eval(ctx context.Context, name, script string, keys []string, args []any) *redis.Cmd {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, name, script, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	cmd := redis.NewCmd(ctx, append(words, args...)...)
	if err := p.send(ctx, cmd); err != nil && ctx.Err() != nil {
		cmd = redis.NewCmd(ctx) // the one that was sent may be written to at any moment
		cmd.SetErr(err)
	}
	return cmd
}

// hashFields returns some fields of a hash, "" for those that are not there.
func (p *pipeline) hashFields(ctx context.Context, key string, fields ...string) ([]string, error) {
	words := []any{"hmget", key}
	for _, field := range fields {
		words = append(words, field)
	}
	cmd := redis.NewSliceCmd(ctx, words...)
	if err := p.send(ctx, cmd); err != nil {
		return nil, err
	}
	texts := make([]string, len(fields))
	for i, value := range cmd.Val() {
		texts[i], _ = value.(string)
	}
	return texts, nil
}
