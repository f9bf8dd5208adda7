// Package commandstest has the fixture for tests of commands and recovery: a Redis and a
// Postgres schema for each test, an operator's client, and the journal. It also has the
// checks that the Lua scripts of both packages must pass. It does not import commands, so
// that the tests inside that package can use it.
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

// Store is the Redis and the Postgres schema of one test, with an operator who works on
// them directly.
type Store struct {
	T testing.TB
	// Ctx ends after a minute.
	Ctx      context.Context //nolint:containedctx // the context of the fixture's test
	Server   *local.Redis
	Operator *redis.Client // a client of its own, beside the one of the service under test
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	keys     atomic.Int64
}

// NewStore returns a store on a new Redis, started with redisArgs, and on a new, migrated
// schema.
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

// Key returns a new idempotency key.
func (s *Store) Key() string { return fmt.Sprintf("key-%d", s.keys.Add(1)) }

// RedisCommand sends a command as an operator would in redis-cli.
func (s *Store) RedisCommand(args ...any) {
	s.T.Helper()
	if err := s.Operator.Do(s.Ctx, args...).Err(); err != nil {
		s.T.Fatalf("redis-cli %v: %v", args, err)
	}
}

// BeginLog writes the head of an empty log in epoch 1, as if Redis had been compared with
// the journal.
func (s *Store) BeginLog() {
	s.T.Helper()
	s.RedisCommand("HSET", s.Pool.MetaKey(), "epoch", 1, "seq", 0, "server", s.ServerID())
}

// ServerID returns the id of the Redis, as the scripts compare it.
func (s *Store) ServerID() string {
	s.T.Helper()
	info, err := s.Operator.InfoMap(s.Ctx, "replication").Result()
	if err != nil {
		s.T.Fatalf("read Redis's id: %v", err)
	}
	return info["Replication"]["master_replid"]
}

// MakeDue moves a hold's deadline into the past, since Redis's clock cannot be moved into
// the future.
func (s *Store) MakeDue(holdID string) {
	s.T.Helper()
	past := time.Now().Add(-time.Minute).UnixMilli()
	s.RedisCommand("HSET", s.Pool.HoldKey(holdID), "expires_at", past)
	s.RedisCommand("ZADD", s.Pool.DueKey(), "XX", past, holdID)
}

// Logged is one event of the stream.
type Logged struct {
	Seq   int64
	ID    uuid.UUID
	Event events.Event
}

// Log reads the whole stream. The test fails unless ParseLog accepts it.
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

// ParseLog parses a whole stream. It fails unless every entry is an event with a time and
// a unique UUIDv7 as its id, and the seqs count up from 1 without a gap.
func ParseLog(entries []redis.XMessage) ([]Logged, error) {
	var log []Logged
	ids := map[uuid.UUID]bool{}
	for i, entry := range entries {
		logged, err := parseEntry(entry, int64(i+1))
		if err == nil && ids[logged.ID] {
			err = fmt.Errorf("event id %s occurs twice", logged.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", entry.ID, err)
		}
		ids[logged.ID] = true
		log = append(log, logged)
	}
	return log, nil
}

// parseEntry parses one stream entry, which must have the seq given.
func parseEntry(entry redis.XMessage, seq int64) (Logged, error) {
	field := func(name string) string {
		text, _ := entry.Values[name].(string)
		return text
	}
	event, err := events.Decode(events.Type(field("type")), []byte(field("payload")))
	if err != nil {
		return Logged{}, err
	}
	id, err := uuid.Parse(field("event_id"))
	if err != nil {
		return Logged{}, fmt.Errorf("event_id %q: %w", field("event_id"), err)
	}
	if id.Version() != 7 {
		return Logged{}, fmt.Errorf("event_id %s: got UUID version %d, want 7", id, id.Version())
	}
	if id.Variant() != uuid.RFC4122 {
		return Logged{}, fmt.Errorf("event_id %s: got UUID variant %s, want RFC 4122", id, id.Variant())
	}
	if got := field("seq"); got != strconv.FormatInt(seq, 10) {
		return Logged{}, fmt.Errorf("got seq %q, want %d", got, seq)
	}
	if _, err := strconv.ParseInt(field("at"), 10, 64); err != nil {
		return Logged{}, fmt.Errorf("at: %w", err)
	}
	return Logged{Seq: seq, ID: id, Event: event}, nil
}

// Dump returns the bytes of every value in Redis, by key.
func (s *Store) Dump() map[string]string {
	s.T.Helper()
	keys, err := s.Operator.Keys(s.Ctx, "*").Result()
	if err != nil {
		s.T.Fatalf("list keys: %v", err)
	}
	dump := make(map[string]string, len(keys))
	for _, key := range keys {
		value, err := s.Operator.Dump(s.Ctx, key).Result()
		if err != nil {
			s.T.Fatalf("dump %s: %v", key, err)
		}
		dump[key] = value
	}
	return dump
}

// WantUnchanged checks that every key in Redis is exactly as in before, which Dump
// returned.
func (s *Store) WantUnchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := s.Dump()
	for key := range before {
		if after[key] != before[key] {
			t.Errorf("key %s: got changed or removed, want as before the refused command", key)
		}
	}
	for key := range after {
		if _, existed := before[key]; !existed {
			t.Errorf("key %s: got written by a refused command, want it absent", key)
		}
	}
}

// WantStock checks the stock counter of a SKU.
func (s *Store) WantStock(t *testing.T, sku string, want int64) {
	t.Helper()
	got, err := s.Operator.Get(s.Ctx, s.Pool.StockKey(sku)).Int64()
	if err != nil {
		t.Errorf("stock of %s: %v, want %d", sku, err, want)
		return
	}
	if got != want {
		t.Errorf("stock of %s: got %d, want %d", sku, got, want)
	}
}

// RunJournal runs the journal of the pool until stop is called or the test ends.
func (s *Store) RunJournal() (stop func()) {
	s.T.Helper()
	log := slog.New(slog.DiscardHandler)
	writer := &journal.Writer{
		Redis: s.Operator,
		Log:   log,
		Park:  func(context.Context, pgx.Tx, []events.Entry) error { return nil },
	}
	return testenv.RunRouter(s.T, func(router *message.Router) {
		writer.AddTo(router, journal.StreamSubscriberConfig{
			Redis:    s.Operator,
			Postgres: s.Postgres,
			Pool:     s.Pool,
			Log:      log,
		})
	})
}

// AwaitJournaled waits until the journal has every event of Redis's log.
func (s *Store) AwaitJournaled() {
	s.T.Helper()
	conn := testenv.Connect(s.T, s.Postgres)
	testenv.Eventually(s.T, 20*time.Second, func() (bool, string) {
		head, err := stream.ReadHead(s.Ctx, s.Operator, s.Pool)
		if err != nil {
			return false, err.Error()
		}
		if !head.Exists {
			return false, "Redis has no log"
		}
		seq, err := worker.ReadCheckpoint(s.Ctx, conn, journal.CheckpointName, s.Pool.Name())
		if err != nil {
			return false, err.Error()
		}
		return seq == head.Seq, fmt.Sprintf("the journal is at seq %d, Redis at %d", seq, head.Seq)
	})
}

// JournalEverything runs the journal until it has every event of Redis's log, and stops
// it.
func (s *Store) JournalEverything() {
	s.T.Helper()
	stop := s.RunJournal()
	s.AwaitJournaled()
	stop()
}

// Contents returns the value of every key in Redis as text, except for the stream and the
// epoch. A restore must bring exactly this back.
func (s *Store) Contents() map[string]string {
	s.T.Helper()
	keys, err := s.Operator.Keys(s.Ctx, "*").Result()
	if err != nil {
		s.T.Fatalf("list keys: %v", err)
	}
	contents := map[string]string{}
	for _, key := range keys {
		value, err := s.readValue(key)
		if err != nil {
			s.T.Fatalf("read %s: %v", key, err)
		}
		if value != nil {
			contents[key] = fmt.Sprint(value)
		}
	}
	return contents
}

// readValue returns the value of a string, a hash without its epoch and server, or a
// sorted set, and nil for any other type.
func (s *Store) readValue(key string) (any, error) {
	switch s.Operator.Type(s.Ctx, key).Val() {
	case "string":
		return s.Operator.Get(s.Ctx, key).Result()
	case "hash":
		fields, err := s.Operator.HGetAll(s.Ctx, key).Result()
		delete(fields, "epoch")
		delete(fields, "server")
		return fields, err
	case "zset":
		return s.Operator.ZRangeWithScores(s.Ctx, key, 0, -1).Result()
	}
	return nil, nil
}

// failer is a *testing.T or a *rapid.T.
type failer interface {
	Helper()
	Errorf(format string, args ...any)
}

// WantContents checks that Redis has the same contents as in before, which Contents
// returned. An idempotency key that was restored may have a second fingerprint beside its
// own.
func (s *Store) WantContents(t failer, before map[string]string) {
	t.Helper()
	after := s.Contents()
	for key, want := range before {
		got := after[key]
		if strings.HasPrefix(key, "idem:") {
			got = withoutSecondFingerprint(got, want)
		}
		if got != want {
			t.Errorf("%s: got %q, want %q as before", key, got, want)
		}
	}
	for key, got := range after {
		if _, existed := before[key]; !existed {
			t.Errorf("%s: got %q, want it absent as before", key, got)
		}
	}
}

// withoutSecondFingerprint removes the fingerprint that a restore has added to an
// idempotency key's value. The remaining one is the fingerprint of original, the value
// before the restore. A value without exactly two fingerprints, or without the original
// one, is returned unchanged.
func withoutSecondFingerprint(got, original string) string {
	fingerprint, _, _ := strings.Cut(original, " ")
	list, rest, _ := strings.Cut(got, " ")
	fingerprints := strings.Split(list, ",")
	if len(fingerprints) == 2 && slices.Contains(fingerprints, fingerprint) {
		return fingerprint + " " + rest
	}
	return got
}
