package journal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
)

// nextPartitions creates partitions before a pool's journal needs them. A partition is
// created when the newest one is half full, so an append never waits for one. If that
// keeps failing until the newest one is full, the append itself creates it, or fails.
type nextPartitions struct {
	end     int64 // the first seq that has no partition, as far as known; 0 if unknown
	retryAt time.Time
}

// partitionRetryInterval is the pause after a partition could not be created ahead of
// need.
const partitionRetryInterval = 10 * time.Second

// reset forgets which partitions exist. Call it when a transaction was rolled back,
// because that may have undone the creation of a partition.
func (p *nextPartitions) reset() { p.end = 0 }

// ensure makes sure, within the transaction that appends, that the journal of a pool has
// partitions up to a seq.
func (p *nextPartitions) ensure(
	ctx context.Context, tx pgx.Tx, pool events.Pool, last int64, log *slog.Logger,
) error {
	fits := last < p.end
	beyond := last + partitionEvents/2
	if beyond < p.end || fits && time.Now().Before(p.retryAt) {
		return nil
	}
	end := p.end
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) (err error) {
		end, err = addPartitions(ctx, tx, pool, beyond, log)
		return err
	})
	if err != nil && fits && ctx.Err() == nil {
		p.retryAt = time.Now().Add(partitionRetryInterval)
		log.Warn("the next partition of the journal could not be created ahead of need; trying again later",
			"error", err)
		return nil
	}
	p.end = end
	return err
}

// addPartitions creates partitions of a pool until they reach beyond a seq, and returns
// the first seq that has no partition. Two processes that do so at the same time take
// turns. Neither the Writer nor the readers have to wait meanwhile.
func addPartitions(
	ctx context.Context, tx pgx.Tx, pool events.Pool, beyond int64, log *slog.Logger,
) (end int64, err error) {
	end, err = partitionsEnd(ctx, tx, pool)
	if err != nil || end > beyond {
		return end, err
	}
	if err := lockPartitions(ctx, tx); err != nil {
		return 0, err
	}
	// Another process may have created them before this one got the lock.
	end, err = partitionsEnd(ctx, tx, pool)
	if err != nil {
		return 0, err
	}
	if err := addPoolTable(ctx, tx, pool); err != nil {
		return 0, err
	}
	for ; end <= beyond; end += partitionEvents {
		name, err := addPartition(ctx, tx, pool, end, end+partitionEvents)
		if err != nil {
			return 0, err
		}
		log.Info("the journal has a new partition", "part", name, "from_seq", end)
	}
	// The rest of the transaction may wait for locks as usual.
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout TO DEFAULT`); err != nil {
		return 0, fmt.Errorf("reset the lock timeout: %w", err)
	}
	return end, nil
}

// partitionsEnd returns the first seq of a pool that has no partition.
func partitionsEnd(ctx context.Context, db postgres.Querier, pool events.Pool) (int64, error) {
	partitions, err := Partitions(ctx, db, pool.Name())
	if err != nil || len(partitions) == 0 {
		return 1, err
	}
	return partitions[len(partitions)-1].Last + 1, nil
}

// addPoolTable creates the table of a pool's events, and attaches it to the table events,
// unless it exists. Attaching takes a weaker lock than creating it as a partition.
func addPoolTable(ctx context.Context, tx pgx.Tx, pool events.Pool) error {
	name := poolTable(pool.Name())
	exists, err := postgres.TableExists(ctx, tx, name)
	if err != nil || exists {
		return err
	}
	query := fmt.Sprintf(`
		CREATE TABLE %[1]s (LIKE events INCLUDING ALL) PARTITION BY RANGE (seq);
		ALTER TABLE events ATTACH PARTITION %[1]s FOR VALUES IN ('%[2]s')`,
		postgres.QuoteIdentifier(name), pool.Name())
	if _, err := tx.Exec(ctx, query); err != nil {
		return fmt.Errorf("create the journal of pool %s: %w", pool.Name(), err)
	}
	return nil
}

// addPartition creates one partition of a pool, for the seqs from first to end-1, and
// returns its name. A CHECK constraint repeats its bounds, so that Postgres can attach
// the table without reading its rows, both now and after it was detached. event_id can be
// unique only within a partition.
func addPartition(
	ctx context.Context, tx pgx.Tx, pool events.Pool, first, end int64,
) (name string, err error) {
	name = partitionName(pool.Name(), first)
	query := fmt.Sprintf(`
		CREATE TABLE %[1]s (LIKE events INCLUDING ALL,
			CONSTRAINT %[2]s UNIQUE (event_id),
			CONSTRAINT part_bounds CHECK (pool = '%[3]s' AND seq >= %[4]d AND seq < %[5]d));
		ALTER TABLE %[6]s ATTACH PARTITION %[1]s FOR VALUES FROM (%[4]d) TO (%[5]d)`,
		postgres.QuoteIdentifier(name), postgres.QuoteIdentifier(name+"_event_id_once"),
		pool.Name(), first, end, postgres.QuoteIdentifier(poolTable(pool.Name())))
	if _, err := tx.Exec(ctx, query); err != nil {
		return "", fmt.Errorf("create partition %s of the journal: %w", name, err)
	}
	return name, nil
}
