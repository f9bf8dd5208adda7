package recovery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
)

// redisState is what Redis's keys say about a pool whose log is closed or takes no
// commands.
type redisState struct {
	stock map[string]int64     // available units, by every SKU that Redis's log names
	holds map[string]redisHold // by hold id
	keys  map[string]redisKey  // the idempotency keys, by the id of the hold or event that they led to
	// invalidKeys have a value that no command wrote. invalidHolds are the ids of the
	// holds among them.
	invalidKeys  []string
	invalidHolds map[string]bool
}

// redisHold is a hold as the scripts write it.
type redisHold struct {
	sku        string
	qty        int64
	userID     string
	state      events.HoldStatus
	expiresAt  int64 // ms
	paymentRef string
}

// redisKey is an idempotency key and its value.
type redisKey struct{ key, value string }

// holdFields are the fields of a hold in the order in which parseHold expects them.
var holdFields = [...]string{"sku", "qty", "user_id", "state", "expires_at", "payment_ref"}

// redisReadBatch is how many keys are read at a time.
const redisReadBatch = 1000

// readRedisState reads the keys of a pool. metaKey is the log head that names the SKUs.
func (r *Recovery) readRedisState(ctx context.Context, metaKey string) (*redisState, error) {
	s := &redisState{
		stock: map[string]int64{},
		holds: map[string]redisHold{},
		keys:  map[string]redisKey{},

		invalidHolds: map[string]bool{},
	}
	if err := r.readStock(ctx, s, metaKey); err != nil {
		return nil, fmt.Errorf("read the stock in Redis: %w", err)
	}
	for cursor := uint64(0); ; {
		found, next, err := stream.ScanKeys(ctx, r.redis, r.pool, cursor, r.pool.KeyPattern(), redisReadBatch)
		if err != nil {
			return nil, err
		}
		if err := r.readHoldsAndKeys(ctx, s, found); err != nil {
			return nil, fmt.Errorf("read the holds in Redis: %w", err)
		}
		if cursor = next; cursor == 0 {
			return s, nil
		}
	}
}

// readStock reads the counters of all SKUs that the log head names. A missing counter
// stands for no units. If a counter is no number, the sum of its events is taken, which
// the log head has.
func (r *Recovery) readStock(ctx context.Context, s *redisState, metaKey string) error {
	fields, err := r.redis.HGetAll(ctx, metaKey).Result()
	if err != nil {
		return err
	}
	counters := map[string]*redis.StringCmd{}
	_, err = r.redis.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for field := range fields {
			if sku, isStock := strings.CutPrefix(field, "stock:"); isStock {
				counters[sku] = pipe.Get(ctx, r.pool.StockKey(sku))
			}
		}
		return nil
	})
	if err := pipelineError(err); err != nil {
		return err
	}
	for sku, counter := range counters {
		if err := keyError(counter.Err()); err != nil {
			return err
		}
		units, err := strconv.ParseInt(counter.Val(), 10, 64)
		switch {
		case errors.Is(counter.Err(), redis.Nil):
			units = 0
		case err != nil || units < 0 || units > commands.StockReadable:
			s.invalidKeys = append(s.invalidKeys, r.pool.StockKey(sku))
			if units, err = strconv.ParseInt(fields["stock:"+sku], 10, 64); err != nil {
				return fmt.Errorf("field stock:%s of %s: %w", sku, metaKey, err)
			}
		}
		s.stock[sku] = units
	}
	return nil
}

// pipelineError returns the error of a pipeline that Redis did not execute, or nil. The
// errors of single commands are checked with keyError.
func pipelineError(err error) error {
	var answered redis.Error
	if errors.As(err, &answered) {
		return nil
	}
	return err
}

// keyError returns nil for the errors that concern the key of a command: it is missing,
// or has another type. With any other, such as LOADING, Redis did not look at the key.
func keyError(err error) error {
	if errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE") {
		return nil
	}
	return err
}

func (r *Recovery) readHoldsAndKeys(ctx context.Context, s *redisState, found []string) error {
	holds := map[string]*redis.SliceCmd{}
	values := map[string]*redis.StringCmd{}
	_, err := r.redis.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, key := range found {
			if id, isHold := strings.CutPrefix(key, r.pool.HoldKey("")); isHold {
				holds[id] = pipe.HMGet(ctx, key, holdFields[:]...)
			} else if id, isKey := strings.CutPrefix(key, r.pool.IdempotencyKey("")); isKey {
				values[id] = pipe.Get(ctx, key)
			}
		}
		return nil
	})
	if err := pipelineError(err); err != nil {
		return err
	}
	for id, fields := range holds {
		if err := keyError(fields.Err()); err != nil {
			return err
		}
		if len(fields.Val()) != len(holdFields) || fields.Val()[0] == nil {
			continue // another program's, or Redis removed it this moment
		}
		if h, ok := parseHold(fields.Val()); ok {
			s.holds[id] = h
		} else {
			s.invalidKeys = append(s.invalidKeys, r.pool.HoldKey(id))
			s.invalidHolds[id] = true
		}
	}
	for key, value := range values {
		if err := keyError(value.Err()); err != nil {
			return err
		}
		if !idempotencyValue.MatchString(value.Val()) {
			continue // another program's, or it has expired
		}
		id := strings.Fields(value.Val())[1]
		s.keys[id] = redisKey{key: key, value: value.Val()}
	}
	return nil
}

// parseHold parses the fields of a hold, and reports whether a command can have written
// them.
func parseHold(fields []any) (h redisHold, ok bool) {
	text := make([]string, len(holdFields))
	for i, field := range fields {
		text[i] = events.FieldText(field)
	}
	qty, qtyErr := strconv.ParseInt(text[1], 10, 64)
	expiresAt, _ := strconv.ParseInt(text[4], 10, 64) // checked by ParseMillis
	h = redisHold{
		sku:        text[0],
		qty:        qty,
		userID:     text[2],
		state:      events.HoldStatus(text[3]),
		expiresAt:  expiresAt,
		paymentRef: text[5],
	}
	switch h.state {
	case events.StatusActive, events.StatusConfirmed, events.StatusCancelled, events.StatusExpired:
	default:
		return h, false
	}
	_, expiresErr := events.ParseMillis(text[4])
	storable := !strings.ContainsRune(strings.Join(text, ""), 0) && utf8.ValidString(strings.Join(text, ""))
	return h, h.sku != "" && qtyErr == nil && qty > 0 && expiresErr == nil && storable
}
