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

// errDiscarded is returned while a discarded log waits to be replaced.
var errDiscarded = fmt.Errorf("an operator discarded Redis's log, and Redis is not yet restored: %w",
	worker.ErrFenced)

// ErrGrown is returned by DiscardLog if the journal has grown since it was compared.
var ErrGrown = errors.New("the journal has grown since it was compared with Redis")

// DiscardLog records an operator's decision that the log in Redis does not go on. Redis
// is then restored from the journal, without a comparison. Until ClearDiscarded removes
// the record, nothing is journaled: the stream still has entries of the discarded log.
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
		epoch, journaled, err := raiseEpoch(ctx, tx, pool.Name(), raise)
		switch {
		case err != nil:
			return err
		case journaled != end:
			return ErrGrown
		}
		if err := appendFacts(ctx, tx, pool, end, facts, log); err != nil {
			return err
		}
		const discard = `UPDATE pools SET discarded_epoch = $2 WHERE pool = $1`
		_, err = tx.Exec(ctx, discard, pool.Name(), epoch-1)
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
	if err := appendEvents(ctx, tx, &nextPartitions{}, pool, end, facts, log); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify($1, $2)`, notifyChannel, pool.Name())
	return err
}

// ClearDiscarded records that Redis was restored after DiscardLog.
func ClearDiscarded(ctx context.Context, conn *pgx.Conn, pool string) error {
	const query = `UPDATE pools SET discarded_epoch = NULL WHERE pool = $1 AND discarded_epoch IS NOT NULL`
	if _, err := conn.Exec(ctx, query, pool); err != nil {
		return fmt.Errorf("record that Redis was restored: %w", err)
	}
	return nil
}
