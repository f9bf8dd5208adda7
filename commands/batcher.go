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
	gate    *Gate

	mu      sync.Mutex
	waiting []*submission
	callers int // goroutines that make calls, one after the other
	closed  bool
	ended   sync.WaitGroup // of the callers
}

// submission is a decision that waits for its turn.
type submission struct {
	ctx      context.Context //nolint:containedctx // of the one who waits: who has left need not be decided
	deadline time.Time       // for its turn
	keys     []string
	command  []byte // as the script takes it
	done     chan error
	answer   answer
	fault    error // of the answer to this command alone
}

const (
	queuedMax = 10_000 // wait for a Redis that does not answer; beyond it, commands fail at once
	batchMax  = 256    // commands in a call, which keeps Redis for some milliseconds at most
	// A second call is sent while one is under way, so that Redis finds it when it is done with the first. It must be
	// worth the fsync that it costs.
	callersMax    = 2
	secondCallMin = 32 // commands
)

var (
	errQueueFull = fmt.Errorf("%d commands wait for Redis already", queuedMax)
	errClosed    = errors.New("the service is closed")
)

func newBatcher(pool events.Pool, client redis.Scripter, timeout time.Duration, gate *Gate) *batcher {
	return &batcher{
		client:  client,
		keys:    []string{pool.MetaKey(), pool.StreamKey(), pool.DueKey()},
		timeout: timeout,
		gate:    gate,
	}
}

// close has what waits decided, and takes no more.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.ended.Wait()
}

// decide returns when the decision is taken or cannot be, or when ctx ends; in the last case it may still be taken. It
// waits for its turn as long as a call may take, and then for its call.
func (b *batcher) decide(ctx context.Context, d *decision, event [4]string) error {
	s := newSubmission(ctx, d, event)
	s.deadline = time.Now().Add(b.timeout)
	if err := b.enqueue(s); err != nil {
		return err
	}
	select {
	case err := <-s.done:
		d.answer = s.answer
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newSubmission(ctx context.Context, d *decision, event [4]string) *submission {
	return &submission{ctx: ctx, keys: d.keys, command: d.pack(event), done: make(chan error, 1)}
}

func (b *batcher) enqueue(s *submission) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case len(b.waiting) == queuedMax:
		return errQueueFull
	}
	b.waiting = append(b.waiting, s)
	if b.callDue(b.callers) {
		b.callers++
		b.ended.Go(b.makeCalls)
	}
	return nil
}

// callDue reports whether what waits should be sent, beside so many calls under way.
func (b *batcher) callDue(underWay int) bool {
	waiting := len(b.waiting)
	return underWay == 0 && waiting > 0 || underWay < callersMax && waiting >= secondCallMin
}

// makeCalls ends when no call is due any more.
func (b *batcher) makeCalls() {
	for batch, due := b.next(); due; batch, due = b.next() {
		if len(batch) == 0 {
			continue
		}
		err := b.call(batch)
		for _, s := range batch {
			s.finish(err)
		}
	}
}

// next returns what a caller should send, if it should. Who has left, or waited for too long, is no part of it.
func (b *batcher) next() (batch []*submission, due bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.callDue(b.callers - 1) {
		b.callers--
		return nil, false
	}
	first := b.waiting[:min(batchMax, len(b.waiting))]
	b.waiting = append(make([]*submission, 0, batchMax), b.waiting[len(first):]...)
	now := time.Now()
	for _, s := range first {
		switch {
		case s.ctx.Err() != nil:
		case now.After(s.deadline):
			s.done <- context.DeadlineExceeded
		default:
			batch = append(batch, s)
		}
	}
	return batch, true
}

// call has a batch decided, and gives each its answer. The script may be sent twice where an answer is lost; it
// finds what it did the first time.
func (b *batcher) call(batch []*submission) error {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	epoch, seq := b.gate.Acknowledged()
	keys, args := make([]string, len(b.keys), len(b.keys)+3*len(batch)), make([]any, 2, 2+len(batch))
	copy(keys, b.keys)
	args[0], args[1] = epoch, seq
	for _, s := range batch {
		keys = append(keys, s.keys...)
		args = append(args, s.command)
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
	b.gate.Acknowledge(whole.epoch, whole.seq)
	if len(answers) != len(batch) {
		return fmt.Errorf("the script answered %d of %d commands", len(answers), len(batch))
	}
	for i, s := range batch {
		s.answer, s.fault = parseAnswer(whole, answers[i])
	}
	return nil
}

// finish tells the one who waits.
func (s *submission) finish(err error) {
	if err == nil {
		err = s.fault
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

// parseAnswer reads the answer to one command. What Redis refused to it alone is its error.
func parseAnswer(whole answer, reply any) (answer, error) {
	fields, isList := reply.([]any)
	if isList && len(fields) >= 2 {
		status, isStatus := fields[0].(string)
		seq, isSeq := fields[1].(int64)
		if isStatus && isSeq {
			a := answer{status: status, epoch: whole.epoch, seq: seq, nowMs: whole.nowMs, values: fields[2:]}
			if status == statusFailed {
				return a, scriptError(a.text(0))
			}
			return a, nil
		}
	}
	return answer{}, fmt.Errorf("the script answered %v, want status, seq and values", reply)
}
