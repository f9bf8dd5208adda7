package journal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// nextPartitions makes the parts that a journal is going to need. A part is made when the newest one is half full, so that
// an append never waits for one; should that have failed until then, the append makes it.
type nextPartitions struct {
	end     int64 // the first seq that no part takes, as far as is known; 0 for not known
	retryAt time.Time
}

// partitionRetryInterval is how soon a part is tried again that could not be made ahead of need.
const partitionRetryInterval = 10 * time.Second

// reset is for when the last transaction was undone, and perhaps the making of a part with it.
func (p *nextPartitions) reset() { p.end = 0 }

// ensure makes sure, within the transaction that appends, that the journal takes events up to a seq.
func (p *nextPartitions) ensure(ctx context.Context, tx pgx.Tx, last int64, log *slog.Logger) error {
	fits := last < p.end
	if last+partitionEvents/2 < p.end || fits && time.Now().Before(p.retryAt) {
		return nil
	}
	end := p.end
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) (err error) {
		end, err = addPartitions(ctx, tx, last+partitionEvents/2, log)
		return err
	})
	if err != nil && fits && ctx.Err() == nil {
		p.retryAt = time.Now().Add(partitionRetryInterval)
		log.Warn("the next part of the journal could not be made ahead of need; it is tried again", "error", err)
		return nil
	}
	p.end = end
	return err
}

// addPartitions makes parts until they reach beyond a seq, and returns the first seq that none takes. Two that do so at once
// take turns. Making a part holds up neither the journal nor its readers.
func addPartitions(ctx context.Context, tx pgx.Tx, beyond int64, log *slog.Logger) (end int64, err error) {
	if end, err = partitionsEnd(ctx, tx); err != nil || end > beyond {
		return end, err
	}
	if err := lockPartitions(ctx, tx); err != nil {
		return 0, err
	}
	if end, err = partitionsEnd(ctx, tx); err != nil {
		return 0, err
	}
	for ; end <= beyond; end += partitionEvents {
		if err := addPartition(ctx, tx, end, end+partitionEvents); err != nil {
			return 0, err
		}
		log.Info("the journal has a new part", "part", partitionName(end), "from_seq", end)
	}
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout TO DEFAULT`); err != nil { // the rest of the transaction may wait
		return 0, fmt.Errorf("reset the lock's timeout: %w", err)
	}
	return end, nil
}

func partitionsEnd(ctx context.Context, db postgres.Querier) (int64, error) {
	parts, err := Partitions(ctx, db)
	if err != nil || len(parts) == 0 {
		return 1, err
	}
	return parts[len(parts)-1].Last + 1, nil
}

// addPartition makes one part. Its bounds stand in a constraint of its own: the table is attached without a look at its
// rows, now and when it was detached in between. event_id can be unique only within a part.
func addPartition(ctx context.Context, tx pgx.Tx, first, end int64) error {
	name := partitionName(first)
	query := fmt.Sprintf(`
		CREATE TABLE %[1]s (LIKE events INCLUDING ALL,
			CONSTRAINT %[2]s UNIQUE (event_id),
			CONSTRAINT part_bounds CHECK (seq >= %[3]d AND seq < %[4]d));
		ALTER TABLE events ATTACH PARTITION %[1]s FOR VALUES FROM (%[3]d) TO (%[4]d)`,
		postgres.QuoteIdentifier(name), postgres.QuoteIdentifier(name+"_event_id_once"), first, end)
	if _, err := tx.Exec(ctx, query); err != nil {
		return fmt.Errorf("make part %s of the journal: %w", name, err)
	}
	return nil
}
