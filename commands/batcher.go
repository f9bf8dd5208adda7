package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// batcher has commands that arrive together decided together, in one call of the script: they share the round trip, the
// reading and writing of what they have in common, and the fsync. A command that arrives alone is sent at once; what
// arrives while a call is under way forms the next. It is safe for concurrent use.
type batcher struct {
	client  redis.Scripter
	keys    []string // meta, stream, due
	timeout time.Duration
	fence   *fence
	queue   chan *submission
	quit    chan struct{}
	sender  sync.WaitGroup
}

// submission is a decision that waits for its turn.
type submission struct {
	ctx      context.Context //nolint:containedctx // of the one who waits: who has left need not be decided
	deadline time.Time
	d        *decision
	fields   []any // of the event
	done     chan error
	answer   answer
}

const (
	queuedMax = 10_000 // wait for a Redis that does not answer; beyond it, commands fail at once
	batchMax  = 256    // commands in a call, which keeps Redis for some milliseconds at most
)

var (
	errQueueFull = fmt.Errorf("%d commands wait for Redis already", queuedMax)
	errClosed    = errors.New("the service is closed")
)

func newBatcher(pool events.Pool, client redis.Scripter, timeout time.Duration, fence *fence) *batcher {
	b := &batcher{
		client: client, keys: []string{pool.MetaKey(), pool.StreamKey(), pool.DueKey()}, timeout: timeout, fence: fence,
		queue: make(chan *submission, queuedMax), quit: make(chan struct{}),
	}
	b.sender.Go(b.send)
	return b
}

// close waits for the call under way.
func (b *batcher) close() {
	close(b.quit)
	b.sender.Wait()
}

// decide returns when the decision is taken, or when ctx or the time for it ends. Then it may still be taken.
func (b *batcher) decide(ctx context.Context, d *decision, fields []any) error {
	s := &submission{ctx: ctx, deadline: time.Now().Add(b.timeout), d: d, fields: fields, done: make(chan error, 1)}
	select {
	case b.queue <- s:
	default:
		return errQueueFull
	}
	timer := time.NewTimer(b.timeout)
	defer timer.Stop()
	select {
	case err := <-s.done:
		d.answer = s.answer
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return context.DeadlineExceeded
	case <-b.quit:
		return errClosed
	}
}

func (b *batcher) send() {
	for {
		select {
		case <-b.quit:
			return
		case first := <-b.queue:
			if batch := b.gather(first); len(batch) > 0 {
				err := b.call(batch)
				for _, s := range batch {
					s.finish(err)
				}
			}
		}
	}
}

// gather returns what waits now, except for commands whose callers have left.
func (b *batcher) gather(first *submission) []*submission {
	batch, now := make([]*submission, 0, min(batchMax, 1+len(b.queue))), time.Now()
	for s := first; ; {
		if s.ctx.Err() == nil && now.Before(s.deadline) {
			batch = append(batch, s)
		}
		if len(batch) == batchMax {
			return batch
		}
		select {
		case s = <-b.queue:
		default:
			return batch
		}
	}
}

// call has a batch decided, and gives each its answer. The script may be sent twice where an answer is lost; it
// finds what it did the first time.
func (b *batcher) call(batch []*submission) error {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	epoch, seq := b.fence.known()
	keys, args := make([]string, len(b.keys), len(b.keys)+4*len(batch)), make([]any, 2, 2+16*len(batch))
	copy(keys, b.keys)
	args[0], args[1] = epoch, seq
	for _, s := range batch {
		keys = append(keys, s.d.keys...)
		args = append(append(append(args, s.d.rule), s.fields...), s.d.args...)
	}
	reply, err := decideScript.Run(ctx, b.client, keys, args...).Slice()
	if err != nil {
		return err
	}
	whole, answers, err := parseReply(reply)
	if err != nil {
		return err
	}
	if whole.status != statusDecided {
		for _, s := range batch {
			s.answer = whole
		}
		return nil
	}
	b.fence.saw(whole.epoch, whole.seq)
	if len(answers) != len(batch) {
		return fmt.Errorf("the script answered %d of %d commands", len(answers), len(batch))
	}
	for i, s := range batch {
		s.answer, err = parseAnswer(whole, answers[i])
		if err != nil {
			return err
		}
	}
	return nil
}

// finish tells the one who waits. What Redis refused to this command alone is its error.
func (s *submission) finish(err error) {
	if err == nil && s.answer.status == statusFailed {
		err = scriptError(s.answer.text(0))
	}
	s.done <- err
}

// scriptError is what Redis answered to a rule, which is as good as an answer to the call.
type scriptError string

func (e scriptError) Error() string { return string(e) }

// RedisError marks it as an answer of Redis, for go-redis and for decisionError.
func (scriptError) RedisError() {}

// parseReply reads what all answers of a call have in common, and leaves the answers as they are.
func parseReply(reply []any) (whole answer, answers []any, err error) {
	var ok [5]bool
	if len(reply) == len(ok) {
		whole.status, ok[0] = reply[0].(string)
		whole.epoch, ok[1] = reply[1].(int64)
		whole.seq, ok[2] = reply[2].(int64)
		whole.nowMs, ok[3] = reply[3].(int64)
		answers, ok[4] = reply[4].([]any)
	}
	if ok != [5]bool{true, true, true, true, true} {
		return answer{}, nil, fmt.Errorf("the script answered %v, want status, epoch, seq, time and answers", reply)
	}
	return whole, answers, nil
}

// parseAnswer reads the answer to one command.
func parseAnswer(whole answer, reply any) (answer, error) {
	fields, isList := reply.([]any)
	if isList && len(fields) >= 2 {
		status, isStatus := fields[0].(string)
		seq, isSeq := fields[1].(int64)
		if isStatus && isSeq {
			return answer{status: status, epoch: whole.epoch, seq: seq, nowMs: whole.nowMs, values: fields[2:]}, nil
		}
	}
	return answer{}, fmt.Errorf("the script answered %v, want status, seq and values", reply)
}
