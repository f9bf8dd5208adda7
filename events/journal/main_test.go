package journal

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) {
	worker.StepTimeout = 2 * time.Second
	worker.AbsenceMax = 5 * time.Second
	historyScanMax = 50
	trimInterval = 50 * time.Millisecond
	partitionEvents = 100
	testenv.Main(m)
}

// fixture is a stream in a Redis server of its own and a journal in a Postgres schema of
// its own, with the helper methods of the tests.
type fixture struct {
	t      *testing.T
	ctx    context.Context
	server *local.Redis
	redis  *redis.Client
	config *pgx.ConnConfig
	db     *pgx.Conn
	pool   events.Pool
	seq    int64 // the seq of the last event that the fixture wrote

	mu     sync.Mutex
	parked []events.Entry
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOn(t, testenv.Schema(t))
}

// newFixtureOn returns a fixture whose journal is in the given database, which must be
// migrated.
func newFixtureOn(t *testing.T, databaseURL string) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	server := testenv.Redis(t)
	f := &fixture{
		t:      t,
		ctx:    ctx,
		server: server,
		redis:  testenv.RedisClient(t, server),
		config: testenv.ParseURL(t, databaseURL),
		pool:   events.MainPool,
	}
	f.db = f.connect()
	return f
}

// inPool returns a fixture for another pool, on the same servers.
func (f *fixture) inPool(name string) *fixture {
	f.t.Helper()
	pool, err := events.NewPool(name)
	if err != nil {
		f.t.Fatal(err)
	}
	other := &fixture{
		t:      f.t,
		ctx:    f.ctx,
		server: f.server,
		redis:  f.redis,
		config: f.config,
		pool:   pool,
	}
	other.db = other.connect()
	return other
}

// connect opens another connection to the fixture's Postgres schema.
func (f *fixture) connect() *pgx.Conn {
	f.t.Helper()
	return testenv.Connect(f.t, f.config)
}

// exec runs a statement that must succeed.
func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(f.ctx, sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// queryInt returns the only number that a query selects.
func (f *fixture) queryInt(sql string, args ...any) int64 {
	f.t.Helper()
	var n int64
	if err := f.db.QueryRow(f.ctx, sql, args...).Scan(&n); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// appendEntry appends an entry with any fields to the stream and returns its stream id.
func (f *fixture) appendEntry(fields map[string]any) string {
	f.t.Helper()
	id, err := f.redis.XAdd(f.ctx, &redis.XAddArgs{
		Stream: f.pool.StreamKey(),
		Values: fields,
	}).Result()
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// appendEvents appends the next n events to the stream. It moves the log head first: a
// script does both in one step, so a reader never sees an event above the log head.
func (f *fixture) appendEvents(n int) {
	f.t.Helper()
	f.setHead(f.seq + int64(n))
	for range n {
		f.seq++
		f.appendEntry(eventFields(f.seq))
	}
}

// appendAndJournal appends the first n events to the stream, runs the journal until it
// has them all, and stops it.
func (f *fixture) appendAndJournal(n int) {
	f.t.Helper()
	f.appendEvents(n)
	_, stop := f.runJournal(0)
	f.awaitJournal(int64(n))
	f.awaitAcknowledged()
	stop()
}

// eventFields returns the fields of a stream entry: the event HOLD_CREATED with the given
// seq and an id of its own.
func eventFields(seq int64) map[string]any {
	const payload = `{"hold_id":"h%d","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":1000,"idempotency_key":"k%d"}`
	return map[string]any{
		"event_id": uuid.Must(uuid.NewV7()).String(),
		"type":     "HOLD_CREATED",
		"metadata": "{}",
		"seq":      seq,
		"at":       1764000000000 + seq,
		"payload":  fmt.Sprintf(payload, seq, seq),
	}
}

// setHead sets the log head in Redis to epoch 1 and the given seq.
func (f *fixture) setHead(seq int64) {
	f.t.Helper()
	if err := f.redis.HSet(f.ctx, f.pool.MetaKey(), "epoch", 1, "seq", seq).Err(); err != nil {
		f.t.Fatal(err)
	}
}

// setGroup sets the last-delivered id of the journal's consumer group.
func (f *fixture) setGroup(streamID string) {
	f.t.Helper()
	err := f.redis.XGroupSetID(f.ctx, f.pool.StreamKey(), events.ConsumerGroup, streamID).Err()
	if err != nil {
		f.t.Fatal(err)
	}
}

// setCheckpoint sets the checkpoint of the journal or of one of its readers.
func (f *fixture) setCheckpoint(name string, seq int64) {
	f.t.Helper()
	f.exec(`
		INSERT INTO checkpoints (projection, pool, seq) VALUES ($1, $3, $2)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $2`, name, seq, f.pool.Name())
}

// streamEntries returns all entries of the stream.
func (f *fixture) streamEntries() []events.Entry {
	f.t.Helper()
	found, err := f.redis.XRange(f.ctx, f.pool.StreamKey(), "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	return stream.ParseEntries(f.pool, found)
}

// runJournal runs the journal, which reads at most batchMax entries per batch, until stop
// is called. The parked entries go to f.parked, in the transaction in which the dead
// letters would be written.
func (f *fixture) runJournal(batchMax int) (w *worker.Worker, stop func()) {
	f.t.Helper()
	config := StreamSubscriberConfig{BatchMax: batchMax, Keep: time.Hour}
	return f.runJournalWith(config, slog.New(slog.DiscardHandler))
}

// runJournalWith runs the journal with the given settings, on the fixture's Redis and
// Postgres.
func (f *fixture) runJournalWith(
	config StreamSubscriberConfig, log *slog.Logger,
) (w *worker.Worker, stop func()) {
	f.t.Helper()
	config.Redis = f.redis
	config.Postgres = f.config
	config.Pool = f.pool
	config.Log = log
	writer := &Writer{
		Redis: f.redis,
		Log:   log,
		Park: func(_ context.Context, _ pgx.Tx, entries []events.Entry) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.parked = append(f.parked, entries...)
			return nil
		},
	}
	stop = testenv.RunRouter(f.t, func(router *message.Router) {
		w = writer.AddTo(router, config)
	})
	return w, stop
}

// awaitJournal waits until the journal has reached a seq and has as many events, so that
// it is dense.
func (f *fixture) awaitJournal(seq int64) {
	f.t.Helper()
	const query = `
		SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = 'journal' AND pool = $1), 0),
		       (SELECT count(*) FROM events WHERE pool = $1)`
	testenv.Eventually(f.t, 20*time.Second, func() (bool, string) {
		var checkpoint, count int64
		if err := f.db.QueryRow(f.ctx, query, f.pool.Name()).Scan(&checkpoint, &count); err != nil {
			return false, err.Error()
		}
		detail := fmt.Sprintf("the journal's checkpoint is %d with %d events, want %d for both",
			checkpoint, count, seq)
		return checkpoint == seq && count == seq, detail
	})
}

// awaitAcknowledged waits until the journal's group is at the end of the stream with no
// lag, no pending entry and no consumer.
func (f *fixture) awaitAcknowledged() {
	f.t.Helper()
	testenv.Eventually(f.t, 10*time.Second, func() (bool, string) {
		info, err := f.redis.XInfoStream(f.ctx, f.pool.StreamKey()).Result()
		if err != nil {
			return false, err.Error()
		}
		groups, err := f.redis.XInfoGroups(f.ctx, f.pool.StreamKey()).Result()
		for _, group := range groups {
			if group.Name == events.ConsumerGroup {
				atEnd := group.LastDeliveredID == info.LastGeneratedID &&
					group.EntriesRead == info.EntriesAdded
				idle := group.Lag == 0 && group.Pending == 0 && group.Consumers == 0
				return atEnd && idle, fmt.Sprintf("the group is %+v, the stream ends at %s",
					group, info.LastGeneratedID)
			}
		}
		return false, fmt.Sprintf("the stream has the groups %+v (%v), want %s",
			groups, err, events.ConsumerGroup)
	})
}

// awaitState waits until a worker is in a state.
func (f *fixture) awaitState(w *worker.Worker, want worker.State) {
	f.t.Helper()
	testenv.Eventually(f.t, 15*time.Second, func() (bool, string) {
		status := w.Status()
		return status.State == want, fmt.Sprintf("the worker's status is %+v, want it %s", status, want)
	})
}

// awaitFault waits until the error in a worker's status contains a text.
func (f *fixture) awaitFault(w *worker.Worker, want string) {
	f.t.Helper()
	testenv.Eventually(f.t, 15*time.Second, func() (bool, string) {
		status := w.Status()
		detail := fmt.Sprintf("the worker's status is %+v, want an error with %q", status, want)
		return strings.Contains(status.Error, want), detail
	})
}

// awaitParked waits until a number of different entries was parked. An entry may be
// parked more than once; the table of dead letters keeps only one.
func (f *fixture) awaitParked(want int) {
	f.t.Helper()
	testenv.Eventually(f.t, 10*time.Second, func() (bool, string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		ids := map[string]bool{}
		for _, entry := range f.parked {
			ids[entry.StreamID] = true
		}
		return len(ids) == want, fmt.Sprintf("the entries %v are parked, want %d", ids, want)
	})
}

// awaitStreamLength waits until the stream has a number of entries.
func (f *fixture) awaitStreamLength(want int64) {
	f.t.Helper()
	testenv.Eventually(f.t, 20*time.Second, func() (bool, string) {
		n, err := f.redis.XLen(f.ctx, f.pool.StreamKey()).Result()
		return err == nil && n == want, fmt.Sprintf("the stream has %d entries (%v), want %d", n, err, want)
	})
}

// assertRunning checks that a worker runs without a fault.
func assertRunning(t *testing.T, w *worker.Worker) {
	t.Helper()
	status := w.Status()
	if status.State != worker.Running {
		t.Errorf("worker: got state %s, want %s", status.State, worker.Running)
	}
	if status.Error != "" {
		t.Errorf("worker: got error %q, want none", status.Error)
	}
}
