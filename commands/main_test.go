package commands

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) {
	restInterval = 20 * time.Millisecond
	testenv.Main(m)
}

// shop is a service on a Redis and a schema of its own, and an operator who types into the same Redis.
type shop struct {
	*Service
	t        testing.TB
	ctx      context.Context
	server   *local.Redis
	operator *redis.Client // not the service's
	postgres *pgx.ConnConfig
	keys     atomic.Int64
}

// openShop returns a shop that takes commands.
func openShop(t testing.TB, redisArgs ...string) *shop {
	t.Helper()
	s := closedShop(t, redisArgs...)
	if err := s.Open(s.ctx, s.postgres); err != nil {
		t.Fatalf("open a new pool: %v", err)
	}
	return s
}

// closedShop returns a shop on new servers that has not been opened.
func closedShop(t testing.TB, redisArgs ...string) *shop {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	server := testenv.Redis(t, redisArgs...)
	s := &shop{t: t, ctx: ctx, server: server, operator: testenv.RedisClient(t, server), postgres: testenv.ParseURL(t, testenv.Schema(t))}
	s.Service = s.anotherService()
	return s
}

// anotherService returns a service of another process, as it were, on the same servers.
func (s *shop) anotherService() *Service {
	s.t.Helper()
	return serviceOn(s.t, testenv.RedisClient(s.t, s.server))
}

func serviceOn(t testing.TB, client *redis.Client) *Service {
	t.Helper()
	service, err := NewService(events.MainPool, client, DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Errorf("close the service: %v", err)
		}
	})
	return service
}

// key returns an idempotency key that nobody used yet.
func (s *shop) key() string { return fmt.Sprintf("key-%d", s.keys.Add(1)) }

// stock adds units to a SKU.
func (s *shop) stock(sku string, units int64) {
	s.t.Helper()
	if _, err := s.AdjustStock(s.ctx, AdjustStock{SKU: sku, Delta: units, Reason: "delivery", IdempotencyKey: s.key()}); err != nil {
		s.t.Fatalf("stock %d of %s: %v", units, sku, err)
	}
}

// hold reserves units of a SKU and returns the hold's id.
func (s *shop) hold(sku string, qty int64) string {
	s.t.Helper()
	r, err := s.Reserve(s.ctx, s.request(sku, qty))
	if err != nil {
		s.t.Fatalf("reserve %d of %s: %v", qty, sku, err)
	}
	return r.HoldID
}

// request is a reservation that nobody asked for yet.
func (s *shop) request(sku string, qty int64) Reserve {
	return Reserve{SKU: sku, Qty: qty, UserID: "ann", IdempotencyKey: s.key()}
}

// typed sends a command as an operator would in redis-cli.
func (s *shop) typed(args ...any) {
	s.t.Helper()
	if err := s.operator.Do(s.ctx, args...).Err(); err != nil {
		s.t.Fatalf("redis-cli %v: %v", args, err)
	}
}

// makeDue moves a hold's deadline into the past, since Redis's clock cannot be moved into the future.
func (s *shop) makeDue(holdID string) {
	s.t.Helper()
	past := time.Now().Add(-time.Minute).UnixMilli()
	s.typed("HSET", s.pool.HoldKey(holdID), "expires_at", past)
	s.typed("ZADD", s.pool.DueKey(), "XX", past, holdID)
}

// logged is one event as the stream holds it.
type logged struct {
	seq   int64
	id    uuid.UUID
	event events.Event
}

// log reads the whole stream and fails unless all of it can be read, with dense seqs and unique UUIDv7 ids.
func (s *shop) log() []logged {
	s.t.Helper()
	entries, err := s.operator.XRange(s.ctx, s.pool.StreamKey(), "-", "+").Result()
	if err != nil {
		s.t.Fatalf("read the stream: %v", err)
	}
	log, err := readLog(entries)
	if err != nil {
		s.t.Fatal(err)
	}
	return log
}

func readLog(entries []redis.XMessage) ([]logged, error) {
	log, ids := make([]logged, len(entries)), map[uuid.UUID]bool{}
	for i, entry := range entries {
		field := func(name string) string { text, _ := entry.Values[name].(string); return text }
		event, err := events.Decode(events.Type(field("type")), []byte(field("payload")))
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", entry.ID, err)
		}
		id, err := uuid.Parse(field("event_id"))
		if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 || ids[id] {
			return nil, fmt.Errorf("entry %s: event_id %q is no UUIDv7, or was there before (%w)", entry.ID, field("event_id"), err)
		}
		ids[id] = true
		if field("seq") != strconv.Itoa(i+1) {
			return nil, fmt.Errorf("entry %s: got seq %q, want %d", entry.ID, field("seq"), i+1)
		}
		if _, err := strconv.ParseInt(field("at"), 10, 64); err != nil {
			return nil, fmt.Errorf("entry %s: at: %w", entry.ID, err)
		}
		log[i] = logged{seq: int64(i + 1), id: id, event: event}
	}
	return log, nil
}

// dump returns the bytes of every key in Redis.
func (s *shop) dump() map[string]string {
	s.t.Helper()
	keys, err := s.operator.Keys(s.ctx, "*").Result()
	if err != nil {
		s.t.Fatalf("list keys: %v", err)
	}
	dump := make(map[string]string, len(keys))
	for _, key := range keys {
		if dump[key], err = s.operator.Dump(s.ctx, key).Result(); err != nil {
			s.t.Fatalf("dump %s: %v", key, err)
		}
	}
	return dump
}

// wantUnchanged fails when Redis does not hold exactly what it held when before was dumped.
func (s *shop) wantUnchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := s.dump()
	for key := range before {
		if after[key] != before[key] {
			t.Errorf("key %s: got changed (or gone), want as before the refused command", key)
		}
	}
	for key := range after {
		if _, was := before[key]; !was {
			t.Errorf("key %s: got written by a refused command, want it absent", key)
		}
	}
}

// wantStock fails when the counter of a SKU is not the one given.
func (s *shop) wantStock(t *testing.T, sku string, want int64) {
	t.Helper()
	if got, err := s.operator.Get(s.ctx, s.pool.StockKey(sku)).Int64(); got != want || err != nil {
		t.Errorf("stock of %s: got %d (%v), want %d", sku, got, err, want)
	}
}

// wantRefusal fails when an error is not the typed one, and returns how many units it says there are.
func wantRefusal(t *testing.T, got error, want *Error) (available int64) {
	t.Helper()
	var refused *Error
	if !errors.Is(got, want) || !errors.As(got, &refused) {
		t.Errorf("got error %v, want %s", got, want.Code)
		return 0
	}
	return refused.Available
}

func ignore[T any](_ T, err error) error { return err }
