package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// scanCount is how many keys Redis looks at in one step of a scan.
const scanCount = 1000

// compareStrangers goes through all that Redis has, for counters and holds that the journal knows nothing of: a hash that
// says ACTIVE could be confirmed. Only a full audit does so. The fold is settled, and follows every key.
func (a *auditor) compareStrangers(ctx context.Context) error {
	client, pool := a.config.Redis, a.config.Pool
	holds := func(ids []string) error { return a.compareKeys(ctx, nil, unknown(ids, a.expected.holds)) }
	skus := func(names []string) error { return a.compareKeys(ctx, unknown(names, a.expected.stock), nil) }

	keys := func(prefix string, compare func([]string) error) error {
		return scan(func(cursor uint64) *redis.ScanCmd { return client.Scan(ctx, cursor, prefix+"*", scanCount) },
			1, prefix, compare)
	}
	if err := keys(pool.HoldKey(""), holds); err != nil {
		return err
	}
	if err := keys(pool.StockKey(""), skus); err != nil {
		return err
	}
	return scan(func(cursor uint64) *redis.ScanCmd {
		return client.HScan(ctx, pool.MetaKey(), cursor, "stock:*", scanCount)
	}, 2, "stock:", skus)
}

// compareDue goes through the deadlines, for those of no live hold.
func (a *auditor) compareDue(ctx context.Context) error {
	step := func(cursor uint64) *redis.ScanCmd {
		return a.config.Redis.ZScan(ctx, a.config.Pool.DueKey(), cursor, "", scanCount)
	}
	return scan(step, 2, "", func(ids []string) error { return a.compareKeys(ctx, nil, unknown(ids, a.expected.holds)) })
}

// scan runs a scan to its end. Of each step it hands on every so many-th text, without the prefix.
func scan(step func(cursor uint64) *redis.ScanCmd, every int, prefix string, compare func([]string) error) error {
	for cursor := uint64(0); ; {
		found, next, err := step(cursor).Result()
		if err != nil {
			return fmt.Errorf("scan Redis: %w", err)
		}
		names := make([]string, 0, len(found)/every)
		for i := 0; i < len(found); i += every {
			names = append(names, strings.TrimPrefix(found[i], prefix))
		}
		if err := compare(names); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// unknown returns the names that the fold does not have.
func unknown[T any](names []string, known map[string]T) []string {
	kept := names[:0]
	for _, name := range names {
		if _, has := known[name]; !has {
			kept = append(kept, name)
		}
	}
	return kept
}
