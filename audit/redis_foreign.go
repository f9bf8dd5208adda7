package audit

import (
	"context"
	"fmt"
	"strings"

	"github.com/stockstream/stockstream/events/stream"
)

// scanCount is how many keys Redis visits in one step of a scan.
const scanCount = 1000

// compareForeignKeys scans Redis for counters, recorded values and holds that no event
// accounts for. They are not harmless: a hash whose state is ACTIVE could be confirmed.
// Only a full audit scans, since it tracks every key that the journal names.
func (a *auditor) compareForeignKeys(ctx context.Context) error {
	client := a.config.Redis
	pool := a.config.Pool
	compareHolds := func(ids []string) error {
		return a.compareKeys(ctx, nil, untracked(ids, a.expected.holds))
	}
	compareSKUs := func(skus []string) error {
		return a.compareKeys(ctx, untracked(skus, a.expected.stock), nil)
	}

	scanKeys := func(prefix string, compare func([]string) error) error {
		step := func(cursor uint64) ([]string, uint64, error) {
			return stream.ScanKeys(ctx, client, pool, cursor, prefix+"*", scanCount)
		}
		return scanRedis(step, 1, prefix, compare)
	}
	if err := scanKeys(pool.HoldKey(""), compareHolds); err != nil {
		return err
	}
	if err := scanKeys(pool.StockKey(""), compareSKUs); err != nil {
		return err
	}
	step := func(cursor uint64) ([]string, uint64, error) {
		return client.HScan(ctx, pool.MetaKey(), cursor, "stock:*", scanCount).Result()
	}
	return scanRedis(step, 2, "stock:", compareSKUs)
}

// scanRedis runs a scan to its end, and calls compare with the names that each step
// found, without the prefix. every is how many texts a step returns per name: 1 for keys,
// 2 for hashes and sorted sets, which return a value with each name.
func scanRedis(
	step func(cursor uint64) (texts []string, next uint64, err error),
	every int, prefix string, compare func([]string) error,
) error {
	for cursor := uint64(0); ; {
		texts, next, err := step(cursor)
		if err != nil {
			return fmt.Errorf("scan Redis: %w", err)
		}
		names := make([]string, 0, len(texts)/every)
		for i := 0; i < len(texts); i += every {
			names = append(names, strings.TrimPrefix(texts[i], prefix))
		}
		if err := compare(names); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// untracked returns the names that tracked lacks. It overwrites the slice of names.
func untracked[T any](names []string, tracked map[string]T) []string {
	kept := names[:0]
	for _, name := range names {
		if _, exists := tracked[name]; !exists {
			kept = append(kept, name)
		}
	}
	return kept
}
