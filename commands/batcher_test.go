package commands

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// step is one command of a batch, with everything chosen beforehand, so that two shops can be given the same.
type step struct {
	rule string
	sku  string
	hold string
	key  string
	qty  int64
}

// submission returns the step as it waits to be decided.
func (s *shop) submission(t testing.TB, eventID string, c step) *submission {
	t.Helper()
	d, event := s.decision(t, eventID, c)
	return newSubmission(s.ctx, d, event)
}

// decision returns the step as it comes from the publisher, with the fields of its event.
func (s *shop) decision(t testing.TB, eventID string, c step) (*decision, [4]string) {
	t.Helper()
	var event events.Event
	d := &decision{rule: c.rule}
	switch c.rule {
	case ruleReserve:
		event = &events.HoldCreated{HoldID: c.hold, SKU: c.sku, Qty: c.qty, UserID: "ann", TTLMs: 60_000, IdempotencyKey: c.key}
		d.keys = []string{s.pool.StockKey(c.sku), s.pool.HoldKey(c.hold), s.pool.IdempotencyKey(c.key)}
		d.args = []string{c.sku, c.hold, digits(c.qty), "ann", "60000", fmt.Sprint(c.sku, c.qty), "60000"}
	case ruleConfirm:
		event = &events.HoldConfirmed{HoldID: c.hold, SKU: c.sku, Qty: c.qty, UserID: "ann", PaymentRef: c.key}
		d.keys, d.args = []string{s.pool.HoldKey(c.hold)}, []string{c.sku, c.hold, c.key, "60000"}
	case ruleCancel:
		event = &events.HoldCancelled{HoldID: c.hold, SKU: c.sku, Qty: c.qty, UserID: "ann", Reason: events.ReasonRequested}
		d.keys = []string{s.pool.StockKey(c.sku), s.pool.HoldKey(c.hold)}
		d.args = []string{c.sku, c.hold, string(HoldCancelled), "60000"}
	case ruleAdjust:
		event = &events.StockAdjusted{SKU: c.sku, Delta: c.qty, Reason: "delivery"}
		d.keys = []string{s.pool.StockKey(c.sku), s.pool.IdempotencyKey(c.key)}
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

// drawSteps draws commands on few SKUs, holds and keys, so that they meet.
func drawSteps(t *rapid.T) []step {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		n := rapid.IntRange(1, 8).Draw(t, "hold")
		c := step{
			rule: rapid.SampledFrom([]string{ruleReserve, ruleReserve, ruleConfirm, ruleCancel, ruleAdjust}).Draw(t, "rule"),
			hold: fmt.Sprint("h", n), sku: []string{"shirt", "coat", "unknown"}[n%3],
			key: fmt.Sprint("k", rapid.IntRange(1, 10).Draw(t, "key")), qty: 1 + int64(n%2),
		}
		if c.rule == ruleAdjust && rapid.Bool().Draw(t, "less") {
			c.qty = -c.qty
		}
		return c
	}), 1, 40).Draw(t, "steps")
}

// state is what commands leave in Redis, without what is of its moment.
func (s *shop) state(t testing.TB) map[string]any {
	t.Helper()
	state := map[string]any{}
	keys, err := s.operator.Keys(s.ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		switch s.operator.Type(s.ctx, key).Val() {
		case "string":
			var fingerprint, id string
			var seq int64
			text := s.operator.Get(s.ctx, key).Val()
			if n, _ := fmt.Sscan(text, &fingerprint, &id, &seq); n == 3 {
				text = fmt.Sprint(fingerprint, id, seq)
			}
			state[key] = text
		case "hash":
			fields := s.operator.HGetAll(s.ctx, key).Val()
			delete(fields, "expires_at")
			state[key] = fields
		case "zset":
			state[key] = s.operator.ZCard(s.ctx, key).Val()
		}
	}
	for _, e := range s.log() {
		state[fmt.Sprint("event ", e.seq)] = fmt.Sprintf("%+v", e.event)
	}
	return state
}

// TestBatchesDecideAsOneByOne holds that it makes no difference which commands happen to be decided together.
func TestBatchesDecideAsOneByOne(t *testing.T) {
	t.Parallel()
	together, alone := openShop(t), openShop(t)
	rapid.Check(t, func(t *rapid.T) {
		for _, s := range []*shop{together, alone} {
			s.typed("FLUSHALL")
			s.typed("HSET", s.pool.MetaKey(), "epoch", 1, "seq", 0)
			s.typed("SET", "stock:shirt", 5) // found by the first command that looks
			s.typed("SET", "stock:coat", 0)
			s.fence.epoch, s.fence.seq = 1, 0
		}
		steps := drawSteps(t)
		a, b := make([]*submission, len(steps)), make([]*submission, len(steps))
		for i, c := range steps {
			id := events.NewID()
			a[i], b[i] = together.submission(alone.t, id, c), alone.submission(alone.t, id, c)
		}
		for rest := a; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			if err := together.batcher.call(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		for i := range b {
			if err := alone.batcher.call(b[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		for i := range steps {
			got, want := a[i].answer, b[i].answer
			refused := refusals[want.status] != nil // says where the log ends, which is the batch's matter
			if got.status != want.status || !refused && got.seq != want.seq {
				t.Fatalf("step %d, %+v: together it is %s at %d, alone %s at %d", i, steps[i], got.status, got.seq, want.status, want.seq)
			}
		}
		if got, want := together.state(alone.t), alone.state(alone.t); !reflect.DeepEqual(got, want) {
			t.Fatalf("together they leave\n%v\nalone\n%v", got, want)
		}
	})
}

// TestFailureInABatch holds that a command which Redis itself refuses takes nothing from its neighbours.
func TestFailureInABatch(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 5)
	s.typed("SET", s.pool.HoldKey("broken"), "mine")
	s.typed("RPUSH", s.pool.IdempotencyKey("broken"), "mine")
	batch := []*submission{
		s.submission(t, events.NewID(), step{rule: ruleReserve, sku: "shirt", hold: "h1", key: "k1", qty: 1}),
		s.submission(t, events.NewID(), step{rule: ruleConfirm, sku: "shirt", hold: "broken", key: "p", qty: 1}),
		s.submission(t, events.NewID(), step{rule: ruleReserve, sku: "shirt", hold: "h2", key: "broken", qty: 1}),
		s.submission(t, events.NewID(), step{rule: ruleReserve, sku: "shirt", hold: "h3", key: "k3", qty: 2}),
	}
	if err := s.batcher.call(batch); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{statusCreated, statusFailed, statusFailed, statusCreated} {
		if got := batch[i].answer.status; got != want {
			t.Errorf("command %d: got %s, want %s", i, got, want)
		}
	}
	batch[1].finish(nil)
	if err := decisionError(<-batch[1].done); !errors.Is(err, ErrStateInvalid) {
		t.Errorf("the failed one: got %v, want ErrStateInvalid", err)
	}
	s.wantStock(t, "shirt", 2)
	if log := s.log(); len(log) != 3 {
		t.Errorf("the log has %d events, want 3", len(log))
	}
	if seq := s.operator.HGet(s.ctx, s.pool.MetaKey(), "seq").Val(); seq != "3" {
		t.Errorf("the log is said to end at %s, want 3", seq)
	}
}

// TestUnreadableCommand holds that a command which the script cannot read takes nothing from those before it, and that
// those behind it, whose keys cannot be told any more, fail without a trace.
func TestUnreadableCommand(t *testing.T) {
	t.Parallel()
	for name, command := range map[string][]byte{"torn": {0xdb, 0, 0, 0, 9, 'r'}, "empty": {}, "of no rule": (&decision{rule: "give"}).pack([4]string{})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			s.stock("shirt", 5)
			var batch []*submission
			for i := range 3 {
				n := fmt.Sprint(i)
				batch = append(batch, s.submission(t, events.NewID(), step{rule: ruleReserve, sku: "shirt", hold: "h" + n, key: "k" + n, qty: 1}))
			}
			batch[1].command = command
			if err := s.batcher.call(batch); err != nil {
				t.Fatal(err)
			}
			for i, want := range []string{statusCreated, statusFailed, statusFailed} {
				if got := batch[i].answer.status; got != want {
					t.Errorf("command %d: got %s, want %s", i, got, want)
				}
			}
			s.wantStock(t, "shirt", 4)
			if log := s.log(); len(log) != 2 || s.operator.HGet(s.ctx, s.pool.MetaKey(), "seq").Val() != "2" {
				t.Errorf("the log has %d events, want 2, and its end saved", len(log))
			}
		})
	}
}

// stuckScripter is a Redis that answers when it is told to.
type stuckScripter struct {
	redis.Scripter
	entered, answer chan struct{}
}

func (s stuckScripter) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	s.entered <- struct{}{}
	<-s.answer
	return s.Scripter.EvalSha(ctx, sha1, keys, args...)
}

// counter is a batcher on a stuck Redis, and the commands that wait for it.
type counter struct {
	*batcher
	s       *shop
	t       *testing.T
	redis   stuckScripter
	waiting sync.WaitGroup
}

func newCounter(t *testing.T) *counter {
	t.Helper()
	s := openShop(t)
	s.stock("shirt", 1000)
	stuck := stuckScripter{Scripter: s.operator, entered: make(chan struct{}), answer: make(chan struct{})}
	return &counter{batcher: newBatcher(s.pool, stuck, time.Minute, &fence{}), s: s, t: t, redis: stuck}
}

// reserve has a reservation wait that must end in an error, or in none.
func (c *counter) reserve(ctx context.Context, n int, want error) {
	d, event := c.s.decision(c.t, events.NewID(), step{rule: ruleReserve, sku: "shirt", hold: fmt.Sprint("h", n), key: fmt.Sprint("k", n), qty: 1})
	c.waiting.Go(func() {
		if err := c.decide(ctx, d, event); !errors.Is(err, want) {
			c.t.Errorf("command %d: got %v, want %v", n, err, want)
		}
	})
}

// awaitLength returns when so many commands wait for a call.
func (c *counter) awaitLength(want int) {
	c.t.Helper()
	testenv.Eventually(c.t, 10*time.Second, func() (bool, string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.batcher.waiting) == want, fmt.Sprintf("%d commands wait, want %d", len(c.batcher.waiting), want)
	})
}

// TestWaitingCommands holds what becomes of commands that wait behind a call: those whose callers leave are not decided,
// those that have waited for too long fail, and the rest are decided together, even when the service closes.
func TestWaitingCommands(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	c.reserve(c.s.ctx, 1, nil)
	<-c.redis.entered
	leaving, leave := context.WithCancel(c.s.ctx)
	c.reserve(leaving, 2, context.Canceled)
	c.reserve(c.s.ctx, 3, nil)
	c.reserve(c.s.ctx, 4, nil)
	c.awaitLength(3)
	c.timeout = -time.Second
	c.reserve(c.s.ctx, 5, context.DeadlineExceeded)
	c.awaitLength(4)
	c.timeout = time.Minute
	leave()
	closed := make(chan struct{})
	go func() { defer close(closed); c.close() }()
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.closed, "it does not close"
	})
	c.redis.answer <- struct{}{}
	<-c.redis.entered
	c.awaitLength(0) // the second call left nothing behind
	c.redis.answer <- struct{}{}
	c.waiting.Wait()
	<-closed
	c.s.wantStock(t, "shirt", 997)
}

// TestSecondCall holds that a second call is sent beside the first once it is worth it, and no third.
func TestSecondCall(t *testing.T) {
	t.Parallel()
	c := newCounter(t)
	c.reserve(c.s.ctx, 0, nil)
	<-c.redis.entered
	for n := range secondCallMin {
		if c.awaitLength(n); n == secondCallMin-1 && c.callersNow() != 1 {
			t.Errorf("%d commands wait, and %d calls are under way", n, c.callersNow())
		}
		c.reserve(c.s.ctx, 1+n, nil)
	}
	<-c.redis.entered
	for n := range 2 * secondCallMin {
		c.reserve(c.s.ctx, 1000+n, nil)
	}
	c.awaitLength(2 * secondCallMin)
	if got := c.callersNow(); got != callersMax {
		t.Errorf("%d calls are under way, want %d", got, callersMax)
	}
	go func() {
		for range c.redis.entered { // whatever follows
		}
	}()
	close(c.redis.answer)
	c.waiting.Wait()
	c.close()
	close(c.redis.entered)
	c.s.wantStock(t, "shirt", 1000-1-3*secondCallMin)
}

func (c *counter) callersNow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.callers
}

// TestClosedBatcher holds that a command which comes when the service is closed fails, and does not hang.
func TestClosedBatcher(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	b := newBatcher(s.pool, s.operator, time.Minute, &fence{})
	b.close()
	if err := b.decide(s.ctx, &decision{}, [4]string{}); !errors.Is(err, errClosed) {
		t.Errorf("got %v, want errClosed", err)
	}
}
