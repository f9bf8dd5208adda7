package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// ErrGrown is returned by DiscardLog if the journal has grown since it was compared.
var ErrGrown = errors.New("the journal has grown since it was compared with Redis")

// DiscardLog records an operator's decision that the log in Redis does not go on. Redis
// is then restored from the journal, without a comparison. RecordRestored removes the
// record.
//
// The same transaction appends facts to the journal: events that say what Redis knows and
// the journal lacks. They follow the event at which the journal must still end. The
// transaction also raises the epoch, so no batch that was read before can be appended.
func DiscardLog(
	ctx context.Context,
	conn *pgx.Conn,
	pool events.Pool,
	raise Raise,
	end int64,
	facts []events.Envelope,
	log *slog.Logger,
) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, journaled, err := raiseEpoch(ctx, tx, pool.Name(), raise)
		switch {
		case err != nil:
			return err
		case journaled != end:
			return ErrGrown
		}
		if err := appendFacts(ctx, tx, pool, end, facts, log); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE pools SET discarded = true WHERE pool = $1`, pool.Name())
		return err
	})
	if err != nil {
		return fmt.Errorf("record that Redis's log is discarded: %w", err)
	}
	return nil
}

// appendFacts appends events after the journal's end, and notifies its readers.
func appendFacts(
	ctx context.Context,
	tx pgx.Tx,
	pool events.Pool,
	end int64,
	facts []events.Envelope,
	log *slog.Logger,
) error {
	if len(facts) == 0 {
		return nil
	}
	last := facts[len(facts)-1].Seq
	var partitions nextPartitions
	if err := partitions.ensure(ctx, tx, pool, last, log); err != nil {
		return err
	}
	if err := copyEvents(ctx, tx, facts); err != nil {
		return err
	}
	if err := worker.MoveCheckpoint(ctx, tx, CheckpointName, pool.Name(), end, last); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, notifyChannel, pool.Name())
	return err
}

// RecordRestored records that Redis has been restored from the journal: it removes the
// records of a hole or fork and of a discarded log.
func RecordRestored(ctx context.Context, conn *pgx.Conn, pool string) error {
	if err := ClearFault(ctx, conn, pool); err != nil {
		return err
	}
	const query = `UPDATE pools SET discarded = false WHERE pool = $1 AND discarded`
	if _, err := conn.Exec(ctx, query, pool); err != nil {
		return fmt.Errorf("record that Redis was restored: %w", err)
	}
	return nil
}
