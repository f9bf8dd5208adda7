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
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// shop sells shirts on servers of its own.
type shop struct {
	t        *testing.T
	ctx      context.Context
	server   *local.Redis
	redis    *redis.Client
	postgres *pgxpool.Pool
	service  *commands.Service
}

func openShop(t *testing.T) *shop {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	url := testenv.Schema(t)
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &shop{t: t, ctx: ctx, server: testenv.Redis(t), postgres: pool}
	s.redis = testenv.RedisClient(t, s.server)
	s.service, err = commands.NewService(events.MainPool, s.redis, commands.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.service.Close() })
	if err := s.service.Open(ctx, testenv.ParseURL(t, url)); err != nil {
		t.Fatal(err)
	}
	s.redis.Set(ctx, "stock:shirt", 100, 0)
	return s
}

// hold reserves a shirt; with due, its deadline has passed.
func (s *shop) hold(key string, due bool) string {
	s.t.Helper()
	r, err := s.service.Reserve(s.ctx, commands.Reserve{SKU: "shirt", Qty: 1, UserID: "ann", IdempotencyKey: key})
	if err != nil {
		s.t.Fatal(err)
	}
	if due {
		past := time.Now().Add(-time.Minute).UnixMilli()
		s.redis.HSet(s.ctx, "hold:"+r.HoldID, "expires_at", past)
		s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: float64(past), Member: r.HoldID})
	}
	return r.HoldID
}

// run runs an instance of the saga.
func (s *shop) run() (line *worker.Worker) {
	s.t.Helper()
	testenv.RunRouter(s.t, func(router *message.Router) { line = s.expiry().AddTo(router) })
	return line
}

func (s *shop) expiry() *Expiry {
	return &Expiry{Commands: s.service, Redis: s.redis, Postgres: s.postgres, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}
}

// deliver has the saga handle one due hold.
func (s *shop) deliver(holdID string) error {
	msg := message.NewMessage(holdID, nil)
	msg.SetContext(s.ctx)
	return s.expiry().handle(msg)
}

func (s *shop) wantLetters(want int) {
	s.t.Helper()
	letters, err := deadletters.List(s.ctx, s.postgres, deadletters.Filter{Source: deadletters.SourceSaga})
	if err != nil || len(letters) != want {
		s.t.Errorf("got %d letters (%v), want %d: %+v", len(letters), err, want, letters)
	}
}

func (s *shop) awaitDue(want int64) {
	s.t.Helper()
	testenv.Eventually(s.t, 15*time.Second, func() (bool, string) {
		got, err := s.redis.ZCard(s.ctx, "holds:due").Result()
		return err == nil && got == want, fmt.Sprintf("%d holds are live or due (%v), want %d", got, err, want)
	})
}

func (s *shop) wantStock(want int64) {
	s.t.Helper()
	if got, err := s.redis.Get(s.ctx, "stock:shirt").Int64(); got != want || err != nil {
		s.t.Errorf("stock: got %d (%v), want %d", got, err, want)
	}
}

// TestExpiry holds that due holds are cancelled once, by however many instances, that their stock returns, and that
// the others are left alone.
func TestExpiry(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	for i := range 40 {
		s.hold(fmt.Sprint("k", i), i < 30)
	}
	for range 3 {
		s.run()
	}
	s.awaitDue(10)
	s.wantStock(90)
	late := s.hold("late", true)
	s.awaitDue(10)
	if state := s.redis.HGet(s.ctx, "hold:"+late, "state").Val(); state != "EXPIRED" {
		t.Errorf("the hold that became due later is %s, want EXPIRED", state)
	}
	entries, err := s.redis.XRange(s.ctx, "inventory.events", "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	expired := 0
	for _, entry := range entries {
		if entry.Values["type"] != "HOLD_CANCELLED" {
			continue
		}
		event, err := events.Decode(events.TypeHoldCancelled, []byte(fmt.Sprint(entry.Values["payload"])))
		if err != nil || event.(*events.HoldCancelled).Reason != "expired" {
			t.Errorf("got %+v (%v), want the reason expired", event, err)
		}
		expired++
	}
	if expired != 31 {
		t.Errorf("the log has %d cancellations, want 31", expired)
	}
}

// TestWhatCannotExpire holds that a due entry which cannot be cancelled is dead-lettered and blocks nobody.
func TestWhatCannotExpire(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	broken := s.hold("k1", true)
	s.redis.HDel(s.ctx, "hold:"+broken, "expires_at")
	s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: 1, Member: "never-was"}, redis.Z{Score: 2, Member: "{odd}\x00"})
	s.hold("k2", true)
	line := s.run()
	s.awaitDue(0)
	s.wantLetters(3)
	s.wantStock(99) // k2's unit is back, and k1's is still held
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		return line.Status().State == worker.Running, fmt.Sprintf("%+v", line.Status())
	})
	// Once it is repaired, an operator puts it back on the set.
	s.redis.HSet(s.ctx, "hold:"+broken, "expires_at", 1)
	s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: 0, Member: broken})
	s.awaitDue(0)
	s.wantStock(100)
}

// TestWhatIsParked holds that a hold is dead-lettered, and taken off the set, for an error that names it. Any other error,
// known or not, leaves it in the set to be tried again.
func TestWhatIsParked(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	letters := 0
	for name, c := range map[string]struct {
		outcome error
		parked  bool
	}{
		"state invalid": {outcome: commands.ErrStateInvalid, parked: true},
		"unknown hold":  {outcome: commands.ErrUnknownHold, parked: true},
		"malformed id":  {outcome: &commands.ValidationError{}, parked: true},
		"not ready":     {outcome: commands.ErrNotReady},
		"stale":         {outcome: commands.ErrStale},
		"unavailable":   {outcome: commands.ErrUnavailable},
		"out of time":   {outcome: context.DeadlineExceeded},
		"unknown":       {outcome: errors.New("odd")},
	} {
		s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: 1, Member: name})
		err := s.expiry().settle(s.ctx, name, fmt.Errorf("cancel: %w", c.outcome))
		inSet := s.redis.ZScore(s.ctx, "holds:due", name).Err() == nil
		if c.parked {
			letters++
		}
		if c.parked && (err != nil || inSet) || !c.parked && (!errors.Is(err, c.outcome) || !inSet) {
			t.Errorf("%s: got %v, in the set: %t", name, err, inSet)
		}
		s.wantLetters(letters)
	}
}

// TestNothingToExpire holds that a due entry whose hold ended in another way, or is not due after all, is handled with
// that: the set is put right.
func TestNothingToExpire(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	for name, c := range map[string]struct {
		meanwhile func(holdID string) error
		stays     bool
	}{
		"confirmed": {meanwhile: func(holdID string) error {
			_, err := s.service.Confirm(s.ctx, commands.Confirm{HoldID: holdID, PaymentRef: "p"})
			return err
		}},
		"cancelled": {meanwhile: func(holdID string) error {
			_, err := s.service.Cancel(s.ctx, commands.Cancel{HoldID: holdID})
			return err
		}},
		"not-due": {meanwhile: func(string) error { return nil }, stays: true},
	} {
		holdID := s.hold(name, false)
		deadline := s.redis.ZScore(s.ctx, "holds:due", holdID).Val()
		if err := c.meanwhile(holdID); err != nil {
			t.Fatal(err)
		}
		s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: 0, Member: holdID})
		if err := s.deliver(holdID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		score, err := s.redis.ZScore(s.ctx, "holds:due", holdID).Result()
		if inSet := err == nil; inSet != c.stays || inSet && score != deadline {
			t.Errorf("%s: in the set: %t, due at %.0f; the deadline is %.0f", name, inSet, score, deadline)
		}
	}
	s.wantLetters(0)
}

// TestNotNow holds that a hold stays due, and is no dead letter, while the pool is not open or Redis is away.
func TestNotNow(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	holdID, open := s.hold("k1", true), s.service
	var err error
	if s.service, err = commands.NewService(events.MainPool, s.redis, commands.DefaultConfig()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.service.Close() })
	if err := s.deliver(holdID); !errors.Is(err, commands.ErrNotReady) {
		t.Errorf("while the pool is not open: got %v, want %v", err, commands.ErrNotReady)
	}
	s.service = open
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.deliver(holdID); !errors.Is(err, commands.ErrUnavailable) {
		t.Errorf("while Redis is away: got %v, want %v", err, commands.ErrUnavailable)
	}
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.awaitDue(1)
	s.wantLetters(0)
	if err := s.deliver(holdID); err != nil {
		t.Error(err)
	}
	s.awaitDue(0)
	s.wantStock(100)
}

// TestWithoutPostgres holds that holds expire while Postgres is away, and that what would be dead-lettered then waits
// without blocking the others.
func TestWithoutPostgres(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	away, err := pgxpool.New(s.ctx, "postgres://app@127.0.0.1:1/inventory")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(away.Close)
	s.postgres = away
	s.redis.ZAdd(s.ctx, "holds:due", redis.Z{Score: 1, Member: "never-was"})
	for i := range 5 {
		s.hold(fmt.Sprint("k", i), true)
	}
	line := s.run()
	s.awaitDue(1)
	s.wantStock(100)
	testenv.Eventually(t, 10*time.Second, func() (bool, string) {
		return strings.Contains(line.Status().Error, "1 due holds were not handled, the first for: ") && strings.Contains(line.Status().Error, "connect"), line.Status().Error
	})
}

// TestRedisAway holds that the saga waits for Redis and goes on by itself.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.hold("k1", true)
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	line := s.run()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		return line.Status().State == worker.Waiting && line.Status().Error != "", fmt.Sprintf("%+v", line.Status())
	})
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.awaitDue(0)
	s.wantStock(100)
}
