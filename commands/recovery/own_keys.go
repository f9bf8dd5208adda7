package recovery

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// idempotencyValue matches what the scripts write to an idempotency key.
var idempotencyValue = regexp.MustCompile(`^\S+ \S+ \d+ \d+$`)

// ownKeys returns those of the keys that belong to the pool. Another program may have
// keys with the same prefixes in the same database, and a restore must not touch them.
//
//   - A stock counter belongs to the pool if the journal or the log in Redis knows its
//     SKU. Other counters may also have been set by hand, and no command has used them.
//   - A hold belongs to it if the journal knows the hold, or if it has a hold's fields.
//   - An idempotency key belongs to it if its value is one that the scripts write. If
//     another program took a key that the journal knows, it is removed from the state,
//     so that the restore does not write it.
func (w *keyWriter) ownKeys(
	ctx context.Context, client redis.Cmdable, s *state, recorded map[string]bool, keys []string,
) (own []string, err error) {
	holds := map[string]*redis.SliceCmd{}
	values := map[string]*redis.StringCmd{}
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, key := range keys {
			sku, isStock := strings.CutPrefix(key, w.pool.StockKey(""))
			id, isHold := strings.CutPrefix(key, w.pool.HoldKey(""))
			_, known := s.stock[sku]
			switch {
			case isStock:
				if known || recorded["stock:"+sku] {
					own = append(own, key)
				}
			case isHold && s.holds[id] == nil:
				holds[key] = pipe.HMGet(ctx, key, "sku", "qty", "user_id", "state", "expires_at")
			case strings.HasPrefix(key, w.pool.IdempotencyKey("")):
				values[key] = pipe.Get(ctx, key)
			case w.pool.HasState(key):
				own = append(own, key)
			}
		}
		return nil
	})
	if err := pipelineError(err); err != nil {
		return nil, err
	}
	for key, hold := range holds {
		if err := keyError(hold.Err()); err != nil {
			return nil, err
		}
		if hold.Err() == nil && !slices.Contains(hold.Val(), nil) {
			own = append(own, key)
		}
	}
	for key, value := range values {
		if err := keyError(value.Err()); err != nil {
			return nil, err
		}
		if value.Err() == nil && idempotencyValue.MatchString(value.Val()) {
			own = append(own, key)
		} else if !errors.Is(value.Err(), redis.Nil) {
			delete(s.keys, strings.TrimPrefix(key, w.pool.IdempotencyKey("")))
		}
	}
	return own, nil
}

// recordedStock returns the fields of the closed log head, which names every SKU that the
// log in Redis had.
func (w *keyWriter) recordedStock(ctx context.Context) (map[string]bool, error) {
	fields, err := w.redis.HKeys(ctx, w.pool.ClosedMetaKey()).Result()
	recorded := make(map[string]bool, len(fields))
	for _, field := range fields {
		recorded[field] = true
	}
	return recorded, err
}
