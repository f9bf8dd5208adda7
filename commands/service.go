package commands

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// Config bounds what commands may ask for.
type Config struct {
	HoldTTL    time.Duration // how long a hold lives that names no ttl
	HoldTTLMax time.Duration // the longest that a hold may ask for
	KeepMemory time.Duration // how long idempotency keys, and holds that ended, are remembered
	Timeout    time.Duration // how long Redis may take to decide; a command waits for its turn as long at most
}

// TimeoutMax keeps the longest that a command can take, which is a read, a turn and a decision, below the time in which
// an HTTP server must have answered.
const TimeoutMax = 10 * time.Second

// DefaultConfig is what an installation starts with.
func DefaultConfig() Config {
	return Config{HoldTTL: 5 * time.Minute, HoldTTLMax: time.Hour, KeepMemory: 24 * time.Hour, Timeout: 5 * time.Second}
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var errs []error
	if c.HoldTTL < time.Second {
		errs = append(errs, fmt.Errorf("hold TTL %s: must be at least 1s", c.HoldTTL))
	}
	if c.HoldTTLMax < c.HoldTTL {
		errs = append(errs, fmt.Errorf("longest hold TTL %s: must not be below the default of %s", c.HoldTTLMax, c.HoldTTL))
	}
	if c.KeepMemory < c.HoldTTLMax {
		errs = append(errs, fmt.Errorf("memory of keys %s: must outlast the longest hold of %s", c.KeepMemory, c.HoldTTLMax))
	}
	if c.Timeout <= 0 || c.Timeout > TimeoutMax {
		errs = append(errs, fmt.Errorf("command timeout %s: must be above 0, and %s at most", c.Timeout, TimeoutMax))
	}
	return errors.Join(errs...)
}

// Service takes commands for one pool.
type Service struct {
	pool      events.Pool
	config    Config
	keepMs    string        // config.KeepMemory, as the script takes it
	redis     *redis.Client // for what is rare
	reads     *reads
	batcher   *batcher
	publisher message.Publisher
	gate      *Gate
}

// NewService returns a service whose gate is closed: it answers NOT_READY until the gate is opened. The
// client stays the caller's to close, after Close.
func NewService(pool events.Pool, client *redis.Client, config Config) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if !client.Options().ContextTimeoutEnabled {
		return nil, errors.New("the client of Redis needs ContextTimeoutEnabled: without it, a Redis that is silent holds commands for longer than they may take")
	}
	reads, err := newReads(client)
	if err != nil {
		return nil, err
	}
	gate := NewGate()
	batcher := newBatcher(pool, client, config.Timeout, gate)
	publisher, err := redisstream.NewPublisher(redisstream.PublisherConfig{
		Client:     decidingClient{UniversalClient: client, batcher: batcher},
		Marshaller: events.Codec{},
	}, watermill.NopLogger{}) // what fails is told by the one who publishes
	if err != nil {
		batcher.close()
		return nil, fmt.Errorf("publisher: %w", errors.Join(err, reads.close()))
	}
	return &Service{
		pool:      pool,
		config:    config,
		keepMs:    digits(config.KeepMemory.Milliseconds()),
		redis:     client,
		reads:     reads,
		batcher:   batcher,
		publisher: publisher,
		gate:      gate,
	}, nil
}

// Gate returns the gate that opens and closes the pool for commands.
func (s *Service) Gate() *Gate { return s.gate }

// Close ends what NewService began, and waits for commands under way.
func (s *Service) Close() error {
	s.batcher.close()
	return errors.Join(s.publisher.Close(), s.reads.close())
}

// decide publishes the event through the script that rules on it. The error is a refusal of the package's own where
// the script or Redis refuses.
func (s *Service) decide(ctx context.Context, eventID string, event events.Event, d *decision) error {
	if !s.gate.IsOpen() {
		return ErrNotReady
	}
	msg, err := events.NewMessage(eventID, event)
	if err != nil {
		return err
	}
	for key, value := range d.metadata {
		msg.Metadata.Set(key, value)
	}
	msg.SetContext(context.WithValue(ctx, decisionKey{}, d))
	if err := s.publisher.Publish(s.pool.StreamKey(), msg); err != nil {
		return decisionError(err)
	}
	err = refusal(s.pool, d.answer)
	s.gate.noticeRefusal(err)
	return err
}

// digits returns a number as text, which is how the script takes it.
func digits(n int64) string { return strconv.FormatInt(n, 10) }

// position is the place of a decided command's event.
func (s *Service) position(a answer) events.Position {
	return events.Position{Pool: s.pool.Name(), Seq: a.seq}
}

// fingerprint tells requests apart that came with the same idempotency key. The parts hold no newlines.
func fingerprint(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
