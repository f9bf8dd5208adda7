// Package commandstest has the fixture of the tests around commands: a Redis and a Postgres schema of
// the test's own, an operator's client, and the journal. It does not import commands, so that the tests
// inside that package can use it.
package commandstest

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// Store is a Redis and a schema of the test's own, and an operator who works on them directly.
type Store struct {
	T        testing.TB
	Ctx      context.Context //nolint:containedctx // a fixture holds its test's context
	Server   *local.Redis
	Operator *redis.Client // not the client of the service under test
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	keys     atomic.Int64
}

// NewStore returns a store on a new Redis and a new, migrated schema. The context ends after a minute.
func NewStore(t testing.TB, redisArgs ...string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	server := testenv.Redis(t, redisArgs...)
	return &Store{
		T:        t,
		Ctx:      ctx,
		Server:   server,
		Operator: testenv.RedisClient(t, server),
		Postgres: testenv.ParseURL(t, testenv.Schema(t)),
		Pool:     events.MainPool,
	}
}

// Key returns an idempotency key that was not used yet.
func (s *Store) Key() string { return fmt.Sprintf("key-%d", s.keys.Add(1)) }

// RedisCommand sends a command as an operator would in redis-cli.
func (s *Store) RedisCommand(args ...any) {
	s.T.Helper()
	if err := s.Operator.Do(s.Ctx, args...).Err(); err != nil {
		s.T.Fatalf("redis-cli %v: %v", args, err)
	}
}

// MakeDue moves a hold's deadline into the past, since Redis's clock cannot be moved into the future.
func (s *Store) MakeDue(holdID string) {
	s.T.Helper()
	past := time.Now().Add(-time.Minute).UnixMilli()
	s.RedisCommand("HSET", s.Pool.HoldKey(holdID), "expires_at", past)
	s.RedisCommand("ZADD", s.Pool.DueKey(), "XX", past, holdID)
}

// Logged is one event as the stream holds it.
type Logged struct {
	Seq   int64
	ID    uuid.UUID
	Event events.Event
}

// Log reads the whole stream and fails unless all of it can be read, with dense seqs and unique UUIDv7 ids.
func (s *Store) Log() []Logged {
	s.T.Helper()
	entries, err := s.Operator.XRange(s.Ctx, s.Pool.StreamKey(), "-", "+").Result()
	if err != nil {
		s.T.Fatalf("read the stream: %v", err)
	}
	log, err := ParseLog(entries)
	if err != nil {
		s.T.Fatal(err)
	}
	return log
}

// ParseLog parses stream entries and fails unless they are events with dense seqs and unique UUIDv7 ids.
func ParseLog(entries []redis.XMessage) ([]Logged, error) {
	log, ids := make([]Logged, len(entries)), map[uuid.UUID]bool{}
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
		log[i] = Logged{Seq: int64(i + 1), ID: id, Event: event}
	}
	return log, nil
}

// Dump returns the bytes of every key in Redis.
func (s *Store) Dump() map[string]string {
	s.T.Helper()
	keys, err := s.Operator.Keys(s.Ctx, "*").Result()
	if err != nil {
		s.T.Fatalf("list keys: %v", err)
	}
	dump := make(map[string]string, len(keys))
	for _, key := range keys {
		if dump[key], err = s.Operator.Dump(s.Ctx, key).Result(); err != nil {
			s.T.Fatalf("dump %s: %v", key, err)
		}
	}
	return dump
}

// WantUnchanged fails when Redis does not hold exactly what it held when before was dumped.
func (s *Store) WantUnchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := s.Dump()
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

// WantStock fails when the counter of a SKU is not the one given.
func (s *Store) WantStock(t *testing.T, sku string, want int64) {
	t.Helper()
	if got, err := s.Operator.Get(s.Ctx, s.Pool.StockKey(sku)).Int64(); got != want || err != nil {
		t.Errorf("stock of %s: got %d (%v), want %d", sku, got, err, want)
	}
}

// RunJournal runs the journal of the shop until stop is called or the test ends.
func (s *Store) RunJournal() (stop func()) {
	s.T.Helper()
	j := &journal.Writer{Redis: s.Operator, Log: slog.New(slog.DiscardHandler), Park: func(context.Context, pgx.Tx, []events.Entry) error { return nil }}
	return testenv.RunRouter(s.T, func(router *message.Router) {
		j.AddTo(router, journal.StreamSubscriberConfig{Redis: s.Operator, Postgres: s.Postgres, Pool: s.Pool, Log: slog.New(slog.DiscardHandler)})
	})
}

// AwaitJournaled waits until the journal has come to the end of Redis's log.
func (s *Store) AwaitJournaled() {
	s.T.Helper()
	conn := testenv.Connect(s.T, s.Postgres)
	testenv.Eventually(s.T, 20*time.Second, func() (bool, string) {
		log, err := stream.ReadHead(s.Ctx, s.Operator, s.Pool)
		if err != nil || !log.Exists {
			return false, fmt.Sprint(log, err)
		}
		seq, err := worker.ReadCheckpoint(s.Ctx, conn, journal.CheckpointName, s.Pool.Name())
		return seq == log.Seq, fmt.Sprintf("the journal is at %d (%v), Redis at %d", seq, err, log.Seq)
	})
}

// JournalEverything journals everything that happened so far, and stops the journal again.
func (s *Store) JournalEverything() {
	s.T.Helper()
	stop := s.RunJournal()
	s.AwaitJournaled()
	stop()
}

// Contents is all that Redis keeps of a pool, as text, but for the stream and for what is said of the log's life.
func (s *Store) Contents() map[string]string {
	s.T.Helper()
	keys, err := s.Operator.Keys(s.Ctx, "*").Result()
	if err != nil {
		s.T.Fatal(err)
	}
	state := map[string]string{}
	for _, key := range keys {
		var value any
		var err error
		switch kind := s.Operator.Type(s.Ctx, key).Val(); kind {
		case "string":
			value, err = s.Operator.Get(s.Ctx, key).Result()
		case "hash":
			fields, hashErr := s.Operator.HGetAll(s.Ctx, key).Result()
			delete(fields, "epoch")
			value, err = fields, hashErr
		case "zset":
			value, err = s.Operator.ZRangeWithScores(s.Ctx, key, 0, -1).Result()
		default:
			continue
		}
		if err != nil {
			s.T.Fatalf("read %s: %v", key, err)
		}
		state[key] = fmt.Sprint(value)
	}
	return state
}

// failer is a test, or a run of a property.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// WantContents fails unless Redis holds what it held, where a restored key may have another fingerprint beside its own.
func (s *Store) WantContents(t failer, before map[string]string) {
	t.Helper()
	after := s.Contents()
	for key, want := range before {
		got := after[key]
		before, _, _ := strings.Cut(want, " ")
		prints, rest, _ := strings.Cut(got, " ")
		if strings.HasPrefix(key, "idem:") && strings.Count(prints, ",") == 1 && slices.Contains(strings.Split(prints, ","), before) {
			got = before + " " + rest
		}
		if got != want {
			t.Errorf("%s: got %q, want %q as before", key, got, want)
		}
	}
	for key := range after {
		if _, was := before[key]; !was {
			t.Errorf("%s: got %q, want it absent as before", key, after[key])
		}
	}
}
