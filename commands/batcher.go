package commands

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/wait"
)

// batcher decides commands in batches: one call of the decide script decides all commands
// of a batch. They share one round trip, one fsync, and the reads and writes of the keys
// that they have in common. It is safe for concurrent use. A command passes through it
// like this:
//
//  1. decide puts the command into the queue, as a submission, and waits for the answer.
//  2. If no call is under way, a goroutine (a caller) starts and sends the command at
//     once, alone.
//  3. Commands that arrive while a call is under way stay in the queue. When the call
//     ends, its caller sends them as the next batch, of at most batchMax commands.
//  4. If secondCallMin commands are waiting while a call is under way, a second caller
//     starts. Redis then has the next batch at hand when it is done with the first. With
//     fewer commands a second call is not worth its fsync.
//  5. A caller ends when no further call is due. At most callersMax of them run at a
//     time.
type batcher struct {
	client  redis.Scripter
	keys    []string // meta, stream, due: the first keys of every call
	timeout time.Duration
	gate    *Gate

	mu      sync.Mutex
	waiting []*submission // the queue, oldest first
	callers int           // running goroutines of makeCalls, each with one call at a time
	closed  bool
	running sync.WaitGroup // counts the callers
}

// submission is a command in the queue, and its answer once it is decided.
type submission struct {
	ctx      context.Context //nolint:containedctx // a command whose client has left is not sent
	deadline time.Time       // a command that is still in the queue then fails
	keys     []string
	command  []byte     // packed for the script
	done     chan error // receives once, after answer and fault are set
	answer   answer
	fault    error // the error of this command, in a call that succeeded
}

const (
	queuedMax     = 10_000 // commands in the queue; one more fails at once
	batchMax      = 256    // commands in one call, so that it occupies Redis for a few ms only
	callersMax    = 2      // calls under way
	secondCallMin = 32     // waiting commands that are worth a second call
	triesMax      = 4      // of one call

	// The longest pause before the second try of a call. It doubles with each try.
	tryPauseMax = 16 * time.Millisecond
)

var (
	errQueueFull = fmt.Errorf("%d commands are already waiting for Redis", queuedMax)
	errClosed    = errors.New("the service is closed")

	errWaitedTooLong = fmt.Errorf("the command waited too long for its call: %w", context.DeadlineExceeded)
)

func newBatcher(pool events.Pool, client redis.Scripter, timeout time.Duration, gate *Gate) *batcher {
	return &batcher{
		client:  client,
		keys:    []string{pool.MetaKey(), pool.StreamKey(), pool.DueKey()},
		timeout: timeout,
		gate:    gate,
	}
}

// close refuses further commands, and returns when the queue is empty and no call is
// under way.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.running.Wait()
}

// decide has the script decide one command, and stores the answer in d. It fails if the
// command waits longer than the timeout for its call, or the call takes longer than the
// timeout. If ctx ends first, it returns ctx's error, and the command may still be
// decided.
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
		return &unknownOutcomeError{ctx.Err()}
	}
}

// newSubmission returns a submission without a deadline.
func newSubmission(ctx context.Context, d *decision, event [4]string) *submission {
	return &submission{
		ctx:     ctx,
		keys:    d.keys,
		command: d.pack(event),
		done:    make(chan error, 1),
	}
}

// enqueue appends a command to the queue, and starts a caller if a call is due.
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
		b.running.Go(b.makeCalls)
	}
	return nil
}

// callDue reports whether the waiting commands should be sent now, while underWay other
// calls are under way. The caller of this method holds mu.
func (b *batcher) callDue(underWay int) bool {
	waiting := len(b.waiting)
	if underWay == 0 {
		return waiting > 0
	}
	return underWay < callersMax && waiting >= secondCallMin
}

// makeCalls sends one batch after the other, and ends when no call is due any more.
func (b *batcher) makeCalls() {
	for {
		batch, due := b.next()
		if !due {
			return
		}
		if len(batch) == 0 {
			continue
		}
		err := b.call(batch)
		for _, s := range batch {
			s.finish(err)
		}
	}
}

// next takes the next batch out of the queue, and reports whether a call was due. It
// drops submissions whose context ended, and fails those whose deadline passed, so a
// batch may be empty. If no call was due, the calling goroutine no longer counts as a
// caller and must end.
func (b *batcher) next() (batch []*submission, due bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.callDue(b.callers - 1) {
		b.callers--
		return nil, false
	}
	oldest := b.waiting[:min(batchMax, len(b.waiting))]
	b.waiting = append(make([]*submission, 0, batchMax), b.waiting[len(oldest):]...)
	now := time.Now()
	for _, s := range oldest {
		switch {
		case s.ctx.Err() != nil: // decide has returned already
		case now.After(s.deadline):
			s.done <- errWaitedTooLong
		default:
			batch = append(batch, s)
		}
	}
	return batch, true
}

// call has the script decide a batch, and stores the answer of each command in its
// submission. It fails if the call as a whole failed.
func (b *batcher) call(batch []*submission) error {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	const keysMax = 3 // of one command
	keys := make([]string, 0, len(b.keys)+keysMax*len(batch))
	keys = append(keys, b.keys...)
	args := make([]any, 2, 2+len(batch)) // the first two are set by send
	for _, s := range batch {
		keys = append(keys, s.keys...)
		args = append(args, s.command)
	}
	reply, repeated, err := b.send(ctx, keys, args)
	if err != nil {
		if repeated {
			return &unknownOutcomeError{err}
		}
		return err
	}
	common, answers, err := parseReply(reply)
	if err != nil {
		return &unknownOutcomeError{err}
	}
	common.repeated = repeated
	if common.status != statusDecided { // the script refused the whole call
		for _, s := range batch {
			s.answer = common
		}
		return nil
	}
	b.gate.Acknowledge(common.epoch, common.seq)
	if len(answers) != len(batch) {
		err := fmt.Errorf("the script answered %d of %d commands", len(answers), len(batch))
		return &unknownOutcomeError{err}
	}
	for i, s := range batch {
		s.answer, s.fault = parseAnswer(common, answers[i])
		if s.fault != nil && repeated {
			s.fault = &unknownOutcomeError{s.fault}
		}
	}
	return nil
}

// send sends a call to Redis, and sends it again if the answer was lost or Redis could
// not decide yet. The script then finds the commands already decided, and answers as
// before.
//
// Each try carries the highest position that is acknowledged by then. The Redis client
// must not repeat the call by itself: it would repeat the position of the first try, and
// a promoted replica that lacks the events acknowledged since would accept it.
//
// repeated reports whether a try that failed may have been decided nevertheless. Then the
// error of the last try does not tell the outcome.
func (b *batcher) send(
	ctx context.Context, keys []string, args []any,
) (reply []any, repeated bool, err error) {
	run := decideScript.EvalSha
	for try := 1; ; try++ {
		args[0], args[1] = b.gate.Acknowledged()
		reply, err = run(ctx, b.client, keys, args...).Slice()
		switch {
		case err == nil:
			return reply, repeated, nil
		case redis.HasErrorPrefix(err, "NOSCRIPT"):
			run = decideScript.Eval
			continue
		}
		repeated = repeated || !decidedNothing(err)
		if try >= triesMax || !mayRepeat(err) {
			return nil, repeated, err
		}
		pause := rand.N(tryPauseMax << (try - 1)) //nolint:gosec // spreads the tries of several processes
		if wait.For(ctx, pause) != nil {
			return nil, repeated, err
		}
	}
}

// mayRepeat reports whether a failed call may succeed if it is sent again: the connection
// failed, or Redis is not ready to decide.
func mayRepeat(err error) bool {
	var answered redis.Error
	if !errors.As(err, &answered) {
		return !errors.Is(err, redis.ErrClosed)
	}
	// The client reloads its map of a cluster's slots when a node answers MOVED.
	_, moved := redis.IsMovedError(err)
	return moved ||
		redis.IsLoadingError(err) ||
		redis.IsReadOnlyError(err) ||
		redis.IsMasterDownError(err) ||
		redis.IsClusterDownError(err) ||
		redis.IsTryAgainError(err) ||
		redis.IsNoReplicasError(err) ||
		redis.IsMaxClientsError(err)
}

// finish ends the wait of decide. err is the error of the call as a whole; without one,
// decide returns the command's own.
func (s *submission) finish(err error) {
	if err == nil {
		err = s.fault
	}
	s.done <- err
}

// scriptError is an error that Redis returned inside the script, to one command of a
// batch. Its text is the one that Redis would have answered to that command alone.
type scriptError string

func (e scriptError) Error() string { return string(e) }

// RedisError makes scriptError a redis.Error: an error that Redis answered, not one of
// the connection.
func (scriptError) RedisError() {}

// parseReply parses the reply to a call: the values that all commands have in common, and
// the answers, which stay unparsed.
func parseReply(reply []any) (common answer, answers []any, err error) {
	var ok [5]bool
	if len(reply) == len(ok) {
		common.status, ok[0] = reply[0].(string)
		common.epoch, ok[1] = reply[1].(int64)
		common.seq, ok[2] = reply[2].(int64)
		common.nowMs, ok[3] = reply[3].(int64)
		answers, ok[4] = reply[4].([]any)
	}
	if ok != [5]bool{true, true, true, true, true} {
		return answer{}, nil, fmt.Errorf("the script answered %v, want status, epoch, seq, time and answers",
			reply)
	}
	return common, answers, nil
}

// parseAnswer parses the answer to one command. If Redis failed inside the script, on
// this command, it also returns an error: a scriptError if nothing was changed, and
// ErrUnavailable if the event was appended.
func parseAnswer(common answer, reply any) (answer, error) {
	a := answer{epoch: common.epoch, nowMs: common.nowMs, repeated: common.repeated}
	var ok [2]bool
	fields, _ := reply.([]any)
	if len(fields) >= len(ok) {
		a.status, ok[0] = fields[0].(string)
		a.seq, ok[1] = fields[1].(int64)
	}
	if ok != [2]bool{true, true} {
		err := fmt.Errorf("the script answered %v, want status, seq and values", reply)
		return answer{}, &unknownOutcomeError{err}
	}
	a.values = fields[2:]
	switch a.status {
	case statusFailed:
		return a, scriptError(a.firstText())
	case statusBrokenOff:
		return a, brokenOff(a.firstText())
	}
	return a, nil
}
