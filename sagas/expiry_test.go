package sagas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery/recoverytest"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a pool with 100 shirts, on a Redis server and in a Postgres schema of its
// own.
type fixture struct {
	t        *testing.T
	ctx      context.Context
	server   *local.Redis
	redis    *redis.Client
	postgres *pgxpool.Pool
	service  *commands.Service
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	url := testenv.Schema(t)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f := &fixture{
		t:        t,
		ctx:      ctx,
		server:   testenv.Redis(t),
		postgres: pool,
	}
	f.redis = testenv.RedisClient(t, f.server)
	f.service = recoverytest.OpenService(t, f.redis, testenv.ParseURL(t, url), commands.DefaultConfig())
	f.redis.Set(ctx, "stock:shirt", 100, 0)
	return f
}

// hold reserves a shirt and returns the id of the hold. If due, it moves the deadline
// into the past.
func (f *fixture) hold(key string, due bool) string {
	f.t.Helper()
	r, err := f.service.Reserve(f.ctx, commands.Reserve{
		SKU:            "shirt",
		Qty:            1,
		UserID:         "ann",
		IdempotencyKey: key,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if due {
		past := time.Now().Add(-time.Minute).UnixMilli()
		f.redis.HSet(f.ctx, "hold:"+r.HoldID, "expires_at", past)
		f.redis.ZAdd(f.ctx, "holds:due", redis.Z{Score: float64(past), Member: r.HoldID})
	}
	return r.HoldID
}

// run starts one instance of the saga, which runs until the test ends.
func (f *fixture) run() (worker *worker.Worker) {
	f.t.Helper()
	testenv.RunRouter(f.t, func(router *message.Router) { worker = f.expiry().AddTo(router) })
	return worker
}

func (f *fixture) expiry() *Expiry {
	return &Expiry{
		Commands: f.service,
		Redis:    f.redis,
		Postgres: f.postgres,
		Pool:     events.MainPool,
		Log:      slog.New(slog.DiscardHandler),
	}
}

// deliver calls the saga's handler with one due hold.
func (f *fixture) deliver(holdID string) error {
	msg := message.NewMessage(holdID, nil)
	msg.SetContext(f.ctx)
	return f.expiry().handle(msg)
}

// wantLetters checks how many dead letters the saga has written.
func (f *fixture) wantLetters(want int) {
	f.t.Helper()
	letters, err := deadletters.List(f.ctx, f.postgres, deadletters.Filter{Source: deadletters.SourceSaga})
	if err != nil {
		f.t.Error(err)
	}
	if len(letters) != want {
		f.t.Errorf("got %d dead letters, want %d: %+v", len(letters), want, letters)
	}
}

// awaitDue waits until the due set, which has all live holds, has the given size.
func (f *fixture) awaitDue(want int64) {
	f.t.Helper()
	testenv.Eventually(f.t, 15*time.Second, func() (bool, string) {
		got, err := f.redis.ZCard(f.ctx, "holds:due").Result()
		return err == nil && got == want, fmt.Sprintf("got %d holds in the due set (%v), want %d",
			got, err, want)
	})
}

func (f *fixture) wantStock(want int64) {
	f.t.Helper()
	got, err := f.redis.Get(f.ctx, "stock:shirt").Int64()
	if err != nil {
		f.t.Error(err)
	}
	if got != want {
		f.t.Errorf("available shirts: got %d, want %d", got, want)
	}
}

// TestDueHoldsExpireOnce checks that three instances of the saga together cancel each due
// hold once, that its units return to the stock, and that holds before their deadline
// stay.
func TestDueHoldsExpireOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 40 {
		f.hold(fmt.Sprint("k", i), i < 30)
	}
	for range 3 {
		f.run()
	}
	f.awaitDue(10)
	f.wantStock(90)
	late := f.hold("late", true)
	f.awaitDue(10)
	if state := f.redis.HGet(f.ctx, "hold:"+late, "state").Val(); state != "EXPIRED" {
		t.Errorf("the hold that became due later: got the state %s, want EXPIRED", state)
	}
	entries, err := f.redis.XRange(f.ctx, "inventory.events", "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	expired := 0
	for _, entry := range entries {
		if entry.Values["type"] != "HOLD_CANCELLED" {
			continue
		}
		event, err := events.Decode(events.TypeHoldCancelled, []byte(fmt.Sprint(entry.Values["payload"])))
		if err != nil {
			t.Fatal(err)
		}
		if reason := event.(*events.HoldCancelled).Reason; reason != "expired" {
			t.Errorf("reason: got %q, want expired", reason)
		}
		expired++
	}
	if expired != 31 {
		t.Errorf("the stream has %d cancellations, want 31", expired)
	}
}

// TestInvalidDueEntriesBecomeDeadLetters checks that a due entry of no hold is
// dead-lettered and does not block the others. A hold whose own key is invalid stays due,
// and expires by itself once the key is repaired.
func TestInvalidDueEntriesBecomeDeadLetters(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	broken := f.hold("k1", true)
	f.redis.HDel(f.ctx, "hold:"+broken, "expires_at")
	f.redis.ZAdd(f.ctx, "holds:due", redis.Z{Score: 1, Member: "never-was"},
		redis.Z{Score: 2, Member: "{odd}\x00"})
	f.hold("k2", true)
	saga := f.run()
	f.awaitDue(1)
	f.wantLetters(2)
	f.wantStock(99) // the unit of k2 has returned; k1 still holds one
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		status := saga.Status()
		return status.State == worker.Running, fmt.Sprintf("%+v", status)
	})
	f.redis.HSet(f.ctx, "hold:"+broken, "expires_at", 1)
	f.awaitDue(0)
	f.wantStock(100)
	f.wantLetters(2)
}

// TestHoldsOfABrokenCounterStayDue checks that a typo in a stock counter keeps the holds
// of its SKU due, and delays no other. The worker's status names the counter, and the log
// does so once. Once the counter is repaired, the holds expire by themselves.
func TestHoldsOfABrokenCounterStayDue(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 3 {
		f.hold(fmt.Sprint("k", i), true)
	}
	f.redis.Set(f.ctx, "stock:shirt", "1,000", 0)
	log := &testenv.LogBuffer{}
	x := f.expiry()
	x.Log = slog.New(slog.NewTextHandler(log, nil))
	var saga *worker.Worker
	testenv.RunRouter(t, func(router *message.Router) { saga = x.AddTo(router) })
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := saga.Status()
		named := status.State == worker.Running && strings.Contains(status.Error, "stock:shirt")
		return named, fmt.Sprintf("%+v", status)
	})
	f.redis.Set(f.ctx, "stock:mug", 10, 0)
	_, err := f.service.Reserve(f.ctx, commands.Reserve{
		SKU:            "mug",
		Qty:            1,
		UserID:         "ann",
		TTL:            time.Second,
		IdempotencyKey: "mug",
	})
	if err != nil {
		t.Fatal(err)
	}
	f.awaitDue(3) // the mug's hold is created, and then expires
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		got, err := f.redis.Get(f.ctx, "stock:mug").Result()
		return got == "10", fmt.Sprintf("mugs: got %s (%v), want 10", got, err)
	})
	if got := f.redis.ZCard(f.ctx, "holds:due").Val(); got != 3 {
		t.Errorf("got %d holds in the due set, want the 3 of the broken counter", got)
	}
	f.wantLetters(0)
	f.redis.Set(f.ctx, "stock:shirt", 97, 0)
	testenv.Eventually(t, 2*keptPauseMax, func() (bool, string) {
		left := f.redis.ZCard(f.ctx, "holds:due").Val()
		return left == 0, fmt.Sprint(left, " holds are in the due set")
	})
	f.wantStock(100)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		status := saga.Status()
		return status.State == worker.Running && status.Error == "", fmt.Sprintf("%+v", status)
	})
	if got := strings.Count(log.String(), "holds stay due"); got != 1 {
		t.Errorf("the log names the broken counter %d times, want once:\n%s", got, log)
	}
}

// TestBackOffSkipsKeptHolds checks that sweeps leave out those holds which stay due until
// the pause is over, that the pause doubles up to keptPauseMax, and that it ends when no
// hold is kept.
func TestBackOffSkipsKeptHolds(t *testing.T) {
	t.Parallel()
	var pace backOff
	now := time.Now()
	for i, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		if got := pace.begin(now); got != allDue {
			t.Fatalf("sweep %d: begins after %d, want a sweep of all due holds", i, got)
		}
		pace.end(sweepResult{end: 100, kept: 1, first: commands.ErrStateInvalid}, now)
		if got := pace.begin(now.Add(want*time.Second - 1)); got != 100 {
			t.Errorf("sweep %d, before the pause is over: begins after %d, want 100", i, got)
		}
		pace.end(sweepResult{end: 100}, now)
		now = now.Add(want*time.Second + 1)
	}
	pace.begin(now)
	pace.end(sweepResult{end: 200}, now)
	if got := pace.begin(now); got != allDue {
		t.Errorf("when no hold is kept: begins after %d, want a sweep of all due holds", got)
	}
}

// TestOnlyPermanentErrorsAreParked checks that a hold is dead-lettered and leaves the due
// set if the error is permanent for this hold. After any other error, known or unknown,
// the hold stays in the set to be tried again.
func TestOnlyPermanentErrorsAreParked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	letters := 0
	for name, c := range map[string]struct {
		outcome error
		parked  bool
	}{
		"state invalid": {outcome: commands.ErrStateInvalid},
		"unknown hold":  {outcome: commands.ErrUnknownHold, parked: true},
		"malformed id":  {outcome: &commands.ValidationError{}, parked: true},
		"not ready":     {outcome: commands.ErrNotReady},
		"other server":  {outcome: commands.ErrOtherServer},
		"stale":         {outcome: commands.ErrStale},
		"unavailable":   {outcome: commands.ErrUnavailable},
		"out of time":   {outcome: context.DeadlineExceeded},
		"unknown":       {outcome: errors.New("odd")},
	} {
		f.redis.ZAdd(f.ctx, "holds:due", redis.Z{Score: 1, Member: name})
		err := f.expiry().handleResult(f.ctx, name, fmt.Errorf("cancel: %w", c.outcome))
		inSet := f.redis.ZScore(f.ctx, "holds:due", name).Err() == nil
		if c.parked {
			letters++
			if err != nil {
				t.Errorf("%s: got the error %v, want the delivery acknowledged", name, err)
			}
		} else if !errors.Is(err, c.outcome) {
			t.Errorf("%s: got the error %v, want %v", name, err, c.outcome)
		}
		if wantInSet := !c.parked; inSet != wantInSet {
			t.Errorf("%s: in the due set: got %t, want %t", name, inSet, wantInSet)
		}
		f.wantLetters(letters)
	}
}

// TestEndedOrEarlyHoldsAreAcknowledged checks that a due entry is acknowledged if its
// hold has ended or is not due yet, and that the due set is corrected.
func TestEndedOrEarlyHoldsAreAcknowledged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		before func(holdID string) error
		stays  bool // in the due set, with its own deadline
	}{
		"confirmed": {before: func(holdID string) error {
			_, err := f.service.Confirm(f.ctx, commands.Confirm{HoldID: holdID, PaymentRef: "p"})
			return err
		}},
		"cancelled": {before: func(holdID string) error {
			_, err := f.service.Cancel(f.ctx, commands.Cancel{HoldID: holdID})
			return err
		}},
		"not-due": {before: func(string) error { return nil }, stays: true},
	} {
		holdID := f.hold(name, false)
		deadline := f.redis.ZScore(f.ctx, "holds:due", holdID).Val()
		if err := c.before(holdID); err != nil {
			t.Fatal(err)
		}
		f.redis.ZAdd(f.ctx, "holds:due", redis.Z{Score: 0, Member: holdID})
		if err := f.deliver(holdID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		score, err := f.redis.ZScore(f.ctx, "holds:due", holdID).Result()
		inSet := err == nil
		if inSet != c.stays {
			t.Errorf("%s: in the due set: got %t, want %t", name, inSet, c.stays)
		}
		if inSet && score != deadline {
			t.Errorf("%s: due at: got %.0f ms, want the deadline %.0f ms", name, score, deadline)
		}
	}
	f.wantLetters(0)
}

// TestHoldStaysDueWhileCommandsAreRefused checks that a hold stays in the due set,
// without a dead letter, while the pool is not open and while Redis is unavailable.
func TestHoldStaysDueWhileCommandsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	holdID := f.hold("k1", true)
	open := f.service
	notOpen, err := commands.NewService(events.MainPool, f.redis, commands.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notOpen.Close() })
	f.service = notOpen
	if err := f.deliver(holdID); !errors.Is(err, commands.ErrNotReady) {
		t.Errorf("while the pool is not open: got %v, want %v", err, commands.ErrNotReady)
	}
	f.service = open
	if err := f.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := f.deliver(holdID); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("while Redis is down: got %v, want %v", err, commands.ErrUnavailable)
	}
	if err := f.server.Start(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitDue(1)
	testenv.Eventually(t, 15*time.Second, func() (bool, string) {
		err := f.deliver(holdID)
		return err == nil, fmt.Sprintf("once Redis is compared with the journal: %v", err)
	})
	f.wantLetters(0)
	f.awaitDue(0)
	f.wantStock(100)
}

// TestHoldsExpireWithoutPostgres checks that holds expire while Postgres is unavailable.
// A hold that would become a dead letter waits for Postgres without blocking the others.
func TestHoldsExpireWithoutPostgres(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	unavailable, err := pgxpool.New(f.ctx, "postgres://app@127.0.0.1:1/inventory")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(unavailable.Close)
	f.postgres = unavailable
	f.redis.ZAdd(f.ctx, "holds:due", redis.Z{Score: 1, Member: "never-was"})
	for i := range 5 {
		f.hold(fmt.Sprint("k", i), true)
	}
	saga := f.run()
	f.awaitDue(1)
	f.wantStock(100)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		got := saga.Status().Error
		reported := strings.Contains(got, "1 due holds were not handled; the first error: ") &&
			strings.Contains(got, "connect")
		return reported, got
	})
}

// TestExpiryResumesWhenRedisReturns checks that the saga waits while Redis is down and
// continues without help.
func TestExpiryResumesWhenRedisReturns(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.hold("k1", true)
	if err := f.server.Kill(); err != nil {
		t.Fatal(err)
	}
	saga := f.run()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		status := saga.Status()
		return status.State == worker.Waiting && status.Error != "", fmt.Sprintf("%+v", status)
	})
	if err := f.server.Start(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.awaitDue(0)
	f.wantStock(100)
}
