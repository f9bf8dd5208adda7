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
	"github.com/stockstream/stockstream/internal/redisclient"
)

// Config sets the durations of a Service.
type Config struct {
	HoldTTL    time.Duration // the TTL of a hold if Reserve sets none
	HoldTTLMax time.Duration // the longest TTL that Reserve may set
	// KeepMemory is how long idempotency keys and ended holds are remembered. It applies
	// to keys that are written from now on; Redis keeps older ones as promised then.
	KeepMemory time.Duration
	// Timeout limits each step of a command: the read of its hold, its wait in the queue,
	// and the call of the script.
	Timeout time.Duration
}

// TimeoutMax is the longest Timeout that Validate accepts. A command takes up to three
// timeouts, and that must stay below the HTTP server's time limit.
const TimeoutMax = 10 * time.Second

// KeepMemoryMin is the shortest KeepMemory that Validate accepts, and the default. The
// API promises that the same request gets the same answer for that long.
const KeepMemoryMin = 24 * time.Hour

// DefaultConfig returns the configuration of a new installation.
func DefaultConfig() Config {
	return Config{
		HoldTTL:    5 * time.Minute,
		HoldTTLMax: time.Hour,
		KeepMemory: KeepMemoryMin,
		Timeout:    5 * time.Second,
	}
}

// Validate checks the durations and their order, and reports every fault at once.
func (c Config) Validate() error {
	var errs []error
	if c.HoldTTL < time.Second {
		errs = append(errs, fmt.Errorf("hold TTL %s: must be at least 1s", c.HoldTTL))
	}
	if c.HoldTTLMax < c.HoldTTL {
		errs = append(errs, fmt.Errorf("longest hold TTL %s: must not be below the default of %s",
			c.HoldTTLMax, c.HoldTTL))
	}
	if c.KeepMemory < KeepMemoryMin {
		errs = append(errs, fmt.Errorf("memory of keys %s: must be at least %s", c.KeepMemory, KeepMemoryMin))
	}
	if c.KeepMemory < c.HoldTTLMax {
		errs = append(errs, fmt.Errorf("memory of keys %s: must outlast the longest hold TTL of %s",
			c.KeepMemory, c.HoldTTLMax))
	}
	if c.Timeout <= 0 || c.Timeout > TimeoutMax {
		errs = append(errs,
			fmt.Errorf("command timeout %s: must be above 0 and at most %s", c.Timeout, TimeoutMax))
	}
	return errors.Join(errs...)
}

// Service decides the commands of one pool.
type Service struct {
	pool      events.Pool
	config    Config
	keepMs    string                // config.KeepMemory in ms, as an argument of the script
	redis     redis.UniversalClient // for Ready; commands use reads and batcher
	reads     *reads
	batcher   *batcher
	publisher message.Publisher
	gate      *Gate

	closeDeciding func() error // closes the batcher's client
}

// NewService returns a service whose gate is closed: it answers NOT_READY until the gate
// is opened. The caller closes the client, after Close.
func NewService(pool events.Pool, client redis.UniversalClient, config Config) (*Service, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	deciding, closeDeciding, err := redisclient.WithoutRetries(client) // see batcher.send
	if err != nil {
		return nil, err
	}
	reads, err := newReads(client)
	if err != nil {
		return nil, errors.Join(err, closeDeciding())
	}
	gate := NewGate()
	batcher := newBatcher(pool, deciding, config.Timeout, gate)
	publisher, err := redisstream.NewPublisher(redisstream.PublisherConfig{
		Client:     decidingClient{UniversalClient: client, batcher: batcher},
		Marshaller: events.Codec{},
	}, watermill.NopLogger{}) // decide returns the publisher's errors, so they need no log line
	if err != nil {
		batcher.close()
		return nil, fmt.Errorf("create the publisher: %w", errors.Join(err, reads.close(), closeDeciding()))
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

		closeDeciding: closeDeciding,
	}, nil
}

// Gate returns the gate that opens and closes the pool for commands.
func (s *Service) Gate() *Gate { return s.gate }

// Close waits until every command under way is decided, and then releases the service's
// resources. Later commands fail with ErrUnavailable.
func (s *Service) Close() error {
	s.batcher.close()
	return errors.Join(s.publisher.Close(), s.reads.close(), s.closeDeciding())
}

// decide publishes the event of a command: the publisher's XADD calls the script, which
// decides the command and appends the event. Its error wraps one of the package's *Error
// values if the script or Redis refused the command.
func (s *Service) decide(ctx context.Context, eventID string, event events.Event, d *decision) error {
	if !s.gate.IsOpen() {
		return withOutcome(ErrNotReady, outcomeNone)
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

// digits returns n in decimal, the form in which the scripts take numbers.
func digits(n int64) string { return strconv.FormatInt(n, 10) }

// position returns the position of the event that a decided command appended.
func (s *Service) position(a answer) events.Position {
	return events.Position{Pool: s.pool.Name(), Seq: a.seq}
}

// fingerprint hashes the parts of a request. Two requests with the same idempotency key
// are the same request if their fingerprints are equal. No part contains a newline.
func fingerprint(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
