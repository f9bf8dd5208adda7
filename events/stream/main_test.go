package stream

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// fixture is a stream in a Redis server of its own.
type fixture struct {
	t     *testing.T
	ctx   context.Context
	redis *redis.Client
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return &fixture{t: t, ctx: ctx, redis: testenv.RedisClient(t, testenv.Redis(t))}
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

// appendEntries appends entries with the given fields to the stream.
func (f *fixture) appendEntries(entries ...map[string]any) {
	f.t.Helper()
	pipe := f.redis.Pipeline()
	for _, fields := range entries {
		pipe.XAdd(f.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), Values: fields})
	}
	if _, err := pipe.Exec(f.ctx); err != nil {
		f.t.Fatal(err)
	}
}
