package commands

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// step is one command of a batch. It has fixed ids and keys, so that two fixtures can be
// given the same one.
type step struct {
	rule string
	sku  string
	hold string
	key  string
	qty  int64
}

// reserveStep returns a reservation of shirts whose hold and key are numbered n.
func reserveStep(n int) step {
	return step{
		rule: ruleReserve,
		sku:  "shirt",
		hold: fmt.Sprint("h", n),
		key:  fmt.Sprint("k", n),
		qty:  1,
	}
}

// submission returns the step as the batcher queues it.
func (f *fixture) submission(t testing.TB, eventID string, c step) *submission {
	t.Helper()
	d, event := f.decision(t, eventID, c)
	return newSubmission(f.Ctx, d, event)
}

// decision returns the step as it comes from the publisher, and the fields of its event.
func (f *fixture) decision(t testing.TB, eventID string, c step) (*decision, [4]string) {
	t.Helper()
	var event events.Event
	d := &decision{rule: c.rule}
	switch c.rule {
	case ruleReserve:
		event = &events.HoldCreated{
			HoldID:         c.hold,
			SKU:            c.sku,
			Qty:            c.qty,
			UserID:         "ann",
			TTLMs:          60_000,
			IdempotencyKey: c.key,
		}
		d.keys = []string{f.Pool.StockKey(c.sku), f.Pool.HoldKey(c.hold), f.Pool.IdempotencyKey(c.key)}
		d.args = []string{c.sku, c.hold, digits(c.qty), "ann", "60000", fmt.Sprint(c.sku, c.qty), "60000"}
	case ruleConfirm:
		event = &events.HoldConfirmed{
			HoldID:     c.hold,
			SKU:        c.sku,
			Qty:        c.qty,
			UserID:     "ann",
			PaymentRef: c.key,
		}
		d.keys = []string{f.Pool.HoldKey(c.hold)}
		d.args = []string{c.sku, c.hold, c.key, "60000"}
	case ruleCancel:
		event = &events.HoldCancelled{
			HoldID: c.hold,
			SKU:    c.sku,
			Qty:    c.qty,
			UserID: "ann",
			Reason: events.ReasonRequested,
		}
		d.keys = []string{f.Pool.StockKey(c.sku), f.Pool.HoldKey(c.hold)}
		d.args = []string{c.sku, c.hold, string(events.StatusCancelled), "60000"}
	case ruleAdjust:
		event = &events.StockAdjusted{SKU: c.sku, Delta: c.qty, Reason: "delivery"}
		d.keys = []string{f.Pool.StockKey(c.sku), f.Pool.IdempotencyKey(c.key)}
		d.args = []string{c.sku, digits(c.qty), fmt.Sprint(c.sku, c.qty), "60000"}
	}
	msg, err := events.NewMessage(eventID, event)
	if err != nil {
		t.Fatal(err)
	}
	fields, err := events.Codec{}.Marshal("", msg)
	if err != nil {
		t.Fatal(err)
	}
	return d, events.StreamFields(fields)
}

// drawSteps draws commands on few SKUs, holds and keys, so that many commands concern the
// same ones.
func drawSteps(t *rapid.T) []step {
	rules := []string{ruleReserve, ruleReserve, ruleConfirm, ruleCancel, ruleAdjust}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		n := rapid.IntRange(1, 8).Draw(t, "hold")
		c := step{
			rule: rapid.SampledFrom(rules).Draw(t, "rule"),
			hold: fmt.Sprint("h", n),
			sku:  []string{"shirt", "coat", "unknown"}[n%3],
			key:  fmt.Sprint("k", rapid.IntRange(1, 10).Draw(t, "key")),
			qty:  1 + int64(n%2),
		}
		if c.rule == ruleAdjust && rapid.Bool().Draw(t, "negative delta") {
			c.qty = -c.qty
		}
		return c
	}), 1, 40).Draw(t, "steps")
}

// reset empties Redis and begins a new log with stock that was set by hand, which the
// first command on each SKU finds.
func (f *fixture) reset() {
	f.RedisCommand("FLUSHALL")
	f.BeginLog()
	f.RedisCommand("SET", "stock:shirt", 5)
	f.RedisCommand("SET", "stock:coat", 0)
	f.batcher.gate = NewGate() // the old one has acknowledged the removed log
	f.batcher.gate.Acknowledge(1, 0)
}

// state returns what the commands have left in Redis, and the log, without times and
// random ids.
func (f *fixture) state(t testing.TB) map[string]any {
	t.Helper()
	state := map[string]any{}
	keys, err := f.Operator.Keys(f.Ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		switch f.Operator.Type(f.Ctx, key).Val() {
		case "string":
			state[key] = withoutDeadline(f.Operator.Get(f.Ctx, key).Val())
		case "hash":
			fields := f.Operator.HGetAll(f.Ctx, key).Val()
			delete(fields, "expires_at")
			delete(fields, "server")
			state[key] = fields
		case "zset":
			state[key] = f.Operator.ZCard(f.Ctx, key).Val()
		}
	}
	for _, logged := range f.Log() {
		state[fmt.Sprint("event ", logged.Seq)] = fmt.Sprintf("%+v", logged.Event)
	}
	return state
}

// withoutDeadline returns the first three parts of an idempotency key's value: the
// fingerprint, the id and the seq. It returns any other value as it is.
func withoutDeadline(value string) string {
	var fingerprint, id string
	var seq int64
	if n, _ := fmt.Sscan(value, &fingerprint, &id, &seq); n == 3 {
		return fmt.Sprint(fingerprint, id, seq)
	}
	return value
}

// TestBatchDecidesLikeSingleCommands checks that commands get the same answers and leave
// the same state whether they are decided in batches of any size or one by one.
func TestBatchDecidesLikeSingleCommands(t *testing.T) {
	t.Parallel()
	batched := openFixture(t)
	single := openFixture(t)
	rapid.Check(t, func(rt *rapid.T) {
		batched.reset()
		single.reset()
		var inBatches, oneByOne []*submission
		steps := drawSteps(rt)
		for _, c := range steps {
			id := events.NewID()
			inBatches = append(inBatches, batched.submission(t, id, c))
			oneByOne = append(oneByOne, single.submission(t, id, c))
		}
		for rest := inBatches; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "batch")
			if err := batched.batcher.call(rest[:n]); err != nil {
				rt.Fatal(err)
			}
			rest = rest[n:]
		}
		for i := range oneByOne {
			if err := single.batcher.call(oneByOne[i : i+1]); err != nil {
				rt.Fatal(err)
			}
		}
		for i, c := range steps {
			got := inBatches[i].answer
			want := oneByOne[i].answer
			if got.status != want.status {
				rt.Fatalf("step %d, %+v: in a batch got %s, want %s as alone", i, c, got.status, want.status)
			}
			// The seq of a refusal is the log's end, which depends on the batch.
			if refusals[want.status] == nil && got.seq != want.seq {
				rt.Fatalf("step %d, %+v: in a batch got seq %d, want %d as alone", i, c, got.seq, want.seq)
			}
		}
		got := batched.state(t)
		want := single.state(t)
		if !reflect.DeepEqual(got, want) {
			rt.Fatalf("in batches got the state\n%v\nwant, as one by one,\n%v", got, want)
		}
	})
}

// wantStatuses checks the status words of a decided batch.
func wantStatuses(t *testing.T, batch []*submission, want ...string) {
	t.Helper()
	for i, status := range want {
		if got := batch[i].answer.status; got != status {
			t.Errorf("command %d: got %s, want %s", i, got, status)
		}
	}
}

// wantSavedSeq checks the log's last seq as Redis has saved it.
func (f *fixture) wantSavedSeq(t *testing.T, want string) {
	t.Helper()
	if got := f.Operator.HGet(f.Ctx, f.Pool.MetaKey(), "seq").Val(); got != want {
		t.Errorf("the saved seq: got %s, want %s", got, want)
	}
}

// TestFailedCommandDoesNotAffectTheRestOfItsBatch checks that commands on keys of the
// wrong type fail alone, and that the other commands of the batch are decided.
func TestFailedCommandDoesNotAffectTheRestOfItsBatch(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 5)
	f.RedisCommand("SET", f.Pool.HoldKey("broken"), "a text")
	f.RedisCommand("RPUSH", f.Pool.IdempotencyKey("broken"), "a list")
	confirmBroken := step{
		rule: ruleConfirm,
		sku:  "shirt",
		hold: "broken",
		key:  "p",
		qty:  1,
	}
	reserveBroken := reserveStep(2)
	reserveBroken.key = "broken"
	reserveTwo := reserveStep(3)
	reserveTwo.qty = 2
	var batch []*submission
	for _, c := range []step{reserveStep(1), confirmBroken, reserveBroken, reserveTwo} {
		batch = append(batch, f.submission(t, events.NewID(), c))
	}
	if err := f.batcher.call(batch); err != nil {
		t.Fatal(err)
	}
	wantStatuses(t, batch, statusCreated, statusFailed, statusFailed, statusCreated)
	batch[1].finish(nil)
	if err := decisionError(<-batch[1].done); !errors.Is(err, ErrStateInvalid) {
		t.Errorf("the failed confirmation: got %v, want ErrStateInvalid", err)
	}
	f.WantStock(t, "shirt", 2)
	f.wantEventCount(t, 3)
	f.wantSavedSeq(t, "3")
}

// TestNothingIsDecidedAfterACommandThatBrokeOff checks that no command is decided after
// one that failed between its event and its other writes: neither in the same batch nor
// later. The log keeps the event, and the client is told that the command is recorded.
func TestNothingIsDecidedAfterACommandThatBrokeOff(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 5)
	var batch []*submission
	for n := range 3 {
		d, event := f.decision(t, events.NewID(), reserveStep(n))
		if n == 1 {
			d.args[len(d.args)-1] = "0" // Redis refuses to keep a key for no time
		}
		batch = append(batch, newSubmission(f.Ctx, d, event))
	}
	if err := f.batcher.call(batch); err != nil {
		t.Fatal(err)
	}
	wantStatuses(t, batch, statusCreated, statusBrokenOff, statusNotReady)
	batch[1].finish(nil)
	err := decisionError(<-batch[1].done)
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "recorded the command") {
		t.Errorf("the command that broke off: got %v, want ErrUnavailable that says it is recorded", err)
	}
	f.wantEventCount(t, 3)
	f.wantSavedSeq(t, "unfinished")
	wantRefusal(t, ignore(f.Reserve(f.Ctx, f.request("shirt", 1))), ErrNotReady)
	err = f.Ready(f.Ctx)
	if !errors.Is(err, ErrNotReady) || !strings.Contains(err.Error(), "refused some writes") {
		t.Errorf("ready: got %v, want ErrNotReady that says why", err)
	}
	f.wantEventCount(t, 3)
}

// TestUnreadableCommandFailsWithAllThatFollow checks that a command that the script
// cannot read fails, that the commands before it are decided, and that the commands after
// it, whose keys the script cannot find any more, fail and change nothing.
func TestUnreadableCommandFailsWithAllThatFollow(t *testing.T) {
	t.Parallel()
	tests := map[string][]byte{
		"cut off":      {0xdb, 0, 0, 0, 9, 'r'},
		"empty":        {},
		"unknown rule": (&decision{rule: "give"}).pack([4]string{}),
	}
	for name, command := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openFixture(t)
			f.stock("shirt", 5)
			var batch []*submission
			for n := range 3 {
				batch = append(batch, f.submission(t, events.NewID(), reserveStep(n)))
			}
			batch[1].command = command
			if err := f.batcher.call(batch); err != nil {
				t.Fatal(err)
			}
			wantStatuses(t, batch, statusCreated, statusFailed, statusFailed)
			f.WantStock(t, "shirt", 4)
			f.wantEventCount(t, 2)
			f.wantSavedSeq(t, "2")
		})
	}
}

// stuckScripter is a Redis that runs a script only when the test lets it.
type stuckScripter struct {
	redis.Scripter
	entered chan struct{} // receives a value from each call
	proceed chan struct{} // each call waits for a value
}

func (s stuckScripter) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	s.entered <- struct{}{}
	<-s.proceed
	return s.Scripter.EvalSha(ctx, sha1, keys, args...)
}

// stuckBatcher is a batcher on a stuckScripter, and the commands that a test sends to it.
type stuckBatcher struct {
	*batcher
	f        *fixture
	t        *testing.T
	redis    stuckScripter
	commands sync.WaitGroup
}

func newStuckBatcher(t *testing.T) *stuckBatcher {
	t.Helper()
	f := openFixture(t)
	f.stock("shirt", 1000)
	stuck := stuckScripter{
		Scripter: f.Operator,
		entered:  make(chan struct{}),
		proceed:  make(chan struct{}),
	}
	return &stuckBatcher{
		batcher: newBatcher(f.Pool, stuck, time.Minute, NewGate()),
		f:       f,
		t:       t,
		redis:   stuck,
	}
}

// reserve sends a reservation in a goroutine of its own and checks its error. A nil want
// requires success.
func (b *stuckBatcher) reserve(ctx context.Context, n int, want error) {
	b.t.Helper()
	d, event := b.f.decision(b.t, events.NewID(), reserveStep(n))
	b.commands.Go(func() {
		if err := b.decide(ctx, d, event); !errors.Is(err, want) {
			b.t.Errorf("command %d: got %v, want %v", n, err, want)
		}
	})
}

// awaitQueued waits until a number of commands wait for a call.
func (b *stuckBatcher) awaitQueued(want int) {
	b.t.Helper()
	testenv.Eventually(b.t, 10*time.Second, func() (bool, string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == want, fmt.Sprintf("%d commands wait, want %d", len(b.waiting), want)
	})
}

// callerCount returns how many goroutines make calls.
func (b *stuckBatcher) callerCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.callers
}

// TestQueuedCommandsAreDecidedTogetherUnlessTheyEndedEarlier checks the commands that
// wait behind a call. A command whose context ended is not decided, one that waited too
// long fails, and the rest are decided in one call, even though the batcher is being
// closed.
func TestQueuedCommandsAreDecidedTogetherUnlessTheyEndedEarlier(t *testing.T) {
	t.Parallel()
	b := newStuckBatcher(t)
	b.reserve(b.f.Ctx, 1, nil)
	<-b.redis.entered
	cancelledCtx, cancel := context.WithCancel(b.f.Ctx)
	defer cancel()
	b.reserve(cancelledCtx, 2, context.Canceled)
	b.reserve(b.f.Ctx, 3, nil)
	b.reserve(b.f.Ctx, 4, nil)
	b.awaitQueued(3)
	b.timeout = -time.Second
	b.reserve(b.f.Ctx, 5, context.DeadlineExceeded)
	b.awaitQueued(4)
	b.timeout = time.Minute
	cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		b.close()
	}()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.closed, "the batcher does not close"
	})
	b.redis.proceed <- struct{}{}
	<-b.redis.entered
	b.awaitQueued(0) // the second call took all that waited
	b.redis.proceed <- struct{}{}
	b.commands.Wait()
	<-closed
	b.f.WantStock(t, "shirt", 997)
}

// TestSecondCallStartsOnceEnoughCommandsWait checks that a second call starts beside the
// first once secondCallMin commands wait, not earlier, and that there is never a third.
func TestSecondCallStartsOnceEnoughCommandsWait(t *testing.T) {
	t.Parallel()
	b := newStuckBatcher(t)
	b.reserve(b.f.Ctx, 0, nil)
	<-b.redis.entered
	for n := range secondCallMin {
		b.awaitQueued(n)
		if n == secondCallMin-1 {
			if got := b.callerCount(); got != 1 {
				t.Errorf("with %d commands waiting: got %d calls, want 1", n, got)
			}
		}
		b.reserve(b.f.Ctx, 1+n, nil)
	}
	<-b.redis.entered
	for n := range 2 * secondCallMin {
		b.reserve(b.f.Ctx, 1000+n, nil)
	}
	b.awaitQueued(2 * secondCallMin)
	if got := b.callerCount(); got != callersMax {
		t.Errorf("with %d commands waiting: got %d calls, want %d", 2*secondCallMin, got, callersMax)
	}
	go func() {
		for range b.redis.entered { // later calls enter, too
		}
	}()
	close(b.redis.proceed)
	b.commands.Wait()
	b.close()
	close(b.redis.entered)
	b.f.WantStock(t, "shirt", 1000-1-3*secondCallMin)
}

// TestCommandToClosedBatcherFails checks that a command sent after close fails and does
// not hang.
func TestCommandToClosedBatcherFails(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	b := newBatcher(f.Pool, f.Operator, time.Minute, NewGate())
	b.close()
	if err := b.decide(f.Ctx, &decision{}, [4]string{}); !errors.Is(err, errClosed) {
		t.Errorf("got %v, want errClosed", err)
	}
}

// loseFirstCall is a client of Redis whose first call fails before Redis decides. In the
// meantime, another call acknowledges a higher position.
type loseFirstCall struct {
	redis.Scripter
	gate *Gate
	lost bool
}

func (c *loseFirstCall) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	if c.lost {
		return c.Scripter.EvalSha(ctx, sha, keys, args...)
	}
	c.lost = true
	c.gate.Acknowledge(1, 100)
	cmd := redis.NewCmd(ctx)
	cmd.SetErr(io.EOF)
	return cmd
}

// TestRepeatedCallCarriesTheNewestPosition checks that a call that is sent again carries
// the position acknowledged since the first try, so that a Redis that lost that position
// refuses it.
func TestRepeatedCallCarriesTheNewestPosition(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 1)
	f.batcher.client = &loseFirstCall{Scripter: f.Operator, gate: f.Gate()}
	if _, err := f.Reserve(f.Ctx, f.request("shirt", 1)); !errors.Is(err, ErrStale) {
		t.Errorf("reserve: got %v, want ErrStale", err)
	}
}
