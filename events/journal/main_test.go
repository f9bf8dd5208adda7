package journal

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

func TestMain(m *testing.M) {
	worker.StepTimeout, worker.AbsenceMax, historyScanMax = 2*time.Second, 5*time.Second, 50
	trimInterval = 50 * time.Millisecond
	partitionEvents = 100
	testenv.Main(m)
}

// plant is a stream and a journal, on servers of their own, and what a test does to them.
type plant struct {
	t      *testing.T
	ctx    context.Context
	server *local.Redis
	redis  *redis.Client
	config *pgx.ConnConfig
	db     *pgx.Conn
	seq    int64

	mu     sync.Mutex
	parked []events.Entry
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	return newPlantOn(t, testenv.Schema(t))
}

func newPlantOn(t *testing.T, databaseURL string) *plant {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	server := testenv.Redis(t)
	p := &plant{t: t, ctx: ctx, server: server, redis: testenv.RedisClient(t, server), config: testenv.ParseURL(t, databaseURL)}
	p.db = p.connect()
	return p
}

func (p *plant) connect() *pgx.Conn {
	p.t.Helper()
	return testenv.Connect(p.t, p.config)
}

// raw appends any entry to the stream, and returns its id.
func (p *plant) raw(fields map[string]any) string {
	p.t.Helper()
	id, err := p.redis.XAdd(p.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), Values: fields}).Result()
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// append adds events as the scripts would: none of them is ever seen before meta counts it.
func (p *plant) append(n int) {
	p.t.Helper()
	p.logEndsAt(p.seq + int64(n))
	for range n {
		p.seq++
		p.raw(p.event(p.seq))
	}
}

// journaled appends the first n events, and runs the journal until it has them.
func (p *plant) journaled(n int) {
	p.t.Helper()
	p.append(n)
	_, stop := p.journal(0)
	p.awaitJournal(int64(n))
	p.awaitAcknowledged()
	stop()
}

// event is a hold's entry with a given seq.
func (p *plant) event(seq int64) map[string]any {
	return map[string]any{
		"event_id": uuid.Must(uuid.NewV7()).String(), "type": "HOLD_CREATED", "metadata": "{}", "seq": seq, "at": 1764000000000 + seq,
		"payload": fmt.Sprintf(`{"hold_id":"h%d","sku":"shirt","qty":1,"user_id":"ann","ttl_ms":1000,"idempotency_key":"k%d"}`, seq, seq),
	}
}

func (p *plant) logEndsAt(seq int64) {
	p.t.Helper()
	if err := p.redis.HSet(p.ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", seq).Err(); err != nil {
		p.t.Fatal(err)
	}
}

// journal runs the journal. What it parks is kept in p.parked, in the same transaction as the real thing would.
func (p *plant) journal(batchMax int) (line *worker.Worker, stop func()) {
	p.t.Helper()
	return p.journalWith(StreamSubscriberConfig{BatchMax: batchMax, Keep: time.Hour}, slog.New(slog.DiscardHandler))
}

// journalWith runs the journal with settings, to which the servers are added.
func (p *plant) journalWith(config StreamSubscriberConfig, log *slog.Logger) (line *worker.Worker, stop func()) {
	p.t.Helper()
	config.Redis, config.Postgres, config.Pool, config.Log = p.redis, p.config, events.MainPool, log
	j := &Writer{Redis: p.redis, Log: log, Park: func(_ context.Context, _ pgx.Tx, entries []events.Entry) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.parked = append(p.parked, entries...)
		return nil
	}}
	stop = testenv.RunRouter(p.t, func(router *message.Router) {
		line = j.AddTo(router, config)
	})
	return line, stop
}

// awaitJournal waits until the journal has come to a seq, and checks that it is dense.
func (p *plant) awaitJournal(seq int64) {
	p.t.Helper()
	testenv.Eventually(p.t, 20*time.Second, func() (bool, string) {
		var got, count int64
		const query = `SELECT coalesce((SELECT seq FROM checkpoints WHERE projection = 'journal'), 0), (SELECT count(*) FROM events)`
		if err := p.db.QueryRow(p.ctx, query).Scan(&got, &count); err != nil {
			return false, err.Error()
		}
		return got == seq && count == seq, fmt.Sprintf("the journal is at %d with %d events, want %d", got, count, seq)
	})
}

// awaitAcknowledged waits until the group stands at the stream's end, with nothing pending.
func (p *plant) awaitAcknowledged() {
	p.t.Helper()
	testenv.Eventually(p.t, 10*time.Second, func() (bool, string) {
		stream, err := p.redis.XInfoStream(p.ctx, events.MainPool.StreamKey()).Result()
		if err != nil {
			return false, err.Error()
		}
		groups, err := p.redis.XInfoGroups(p.ctx, events.MainPool.StreamKey()).Result()
		for _, group := range groups {
			if group.Name == events.ConsumerGroup {
				return group.LastDeliveredID == stream.LastGeneratedID && group.Pending == 0 && group.Consumers == 0 && group.Lag == 0 && group.EntriesRead == stream.EntriesAdded, fmt.Sprintf("the group is %+v, the stream ends at %s", group, stream.LastGeneratedID)
			}
		}
		return false, fmt.Sprintf("no group among %+v (%v)", groups, err)
	})
}

// awaitFault waits until a line says why it does not run.
func (p *plant) awaitFault(line *worker.Worker, want string) {
	p.t.Helper()
	testenv.Eventually(p.t, 15*time.Second, func() (bool, string) {
		status := line.Status()
		return containsText(status.Error, want), fmt.Sprintf("status %+v, want an error with %q", status, want)
	})
}
