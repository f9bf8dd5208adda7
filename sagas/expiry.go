package sagas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/worker"
)

// Expiry cancels due holds with the reason "expired". The same command returns their
// units to the stock.
type Expiry struct {
	Commands *commands.Service
	Redis    redis.Cmdable
	Postgres *pgxpool.Pool // used only for dead letters: holds also expire while Postgres is unavailable
	Pool     events.Pool
	Log      *slog.Logger
}

// AddTo adds the saga to the router and returns the worker that reads the due holds.
func (x *Expiry) AddTo(router *message.Router) *worker.Worker {
	subscriber := newDueSubscriber(x.Redis, x.Pool, x.Log)
	handler := router.AddConsumerHandler("saga expiry", x.Pool.DueKey(), subscriber, x.handle)
	handler.AddMiddleware(worker.ReportFault)
	return subscriber.Worker
}

// handle cancels the hold whose id is the message's UUID.
func (x *Expiry) handle(msg *message.Message) error {
	ctx := msg.Context()
	holdID := msg.UUID
	_, err := x.Commands.Cancel(ctx, commands.Cancel{
		HoldID:   holdID,
		Expired:  true,
		Metadata: map[string]string{journal.MetadataCausationID: "expiry/" + holdID},
	})
	return x.handleResult(ctx, holdID, err)
}

// handleResult turns the result of Cancel into the result of the delivery:
//
//   - The hold is cancelled, or there was nothing to cancel: the message is acknowledged.
//   - Cancel will always refuse this hold: the hold becomes a dead letter and leaves the
//     due set.
//   - A key of the hold or of its stock is invalid: the message is refused, and the hold
//     stays due until an operator has repaired the key.
//   - Any other error: the message is refused, and a later sweep delivers the hold again.
func (x *Expiry) handleResult(ctx context.Context, holdID string, err error) error {
	switch {
	case err == nil, nothingToCancel(err):
		return nil
	case errors.Is(err, commands.ErrStateInvalid):
		return fmt.Errorf("hold %s: %w", holdID, err)
	case !isPermanent(err):
		return err
	}
	x.Log.Error("due hold cannot be cancelled; parked as a dead letter", "hold_id", holdID, "error", err)
	if err := x.park(ctx, holdID, err); err != nil {
		return err
	}
	if err := x.Redis.ZRem(ctx, x.Pool.DueKey(), holdID).Err(); err != nil {
		return fmt.Errorf("remove hold %s from the due set: %w", holdID, err)
	}
	return nil
}

// nothingToCancel reports whether the hold was confirmed or cancelled before, or is not
// due. Cancel's script has then already corrected the due set.
func nothingToCancel(err error) bool {
	return errors.Is(err, commands.ErrHoldConfirmed) ||
		errors.Is(err, commands.ErrHoldCancelled) ||
		errors.Is(err, commands.ErrNotDue)
}

// isPermanent reports whether Cancel would refuse the hold at every further attempt. An
// unknown error counts as temporary.
func isPermanent(err error) bool {
	var malformed *commands.ValidationError
	return errors.Is(err, commands.ErrUnknownHold) || errors.As(err, &malformed)
}

// park writes a dead letter for a hold that cannot be cancelled.
func (x *Expiry) park(ctx context.Context, holdID string, cause error) error {
	return pgx.BeginFunc(ctx, x.Postgres, func(tx pgx.Tx) error {
		return deadletters.Park(ctx, tx, deadletters.Letter{
			Source:      deadletters.SourceSaga,
			MessageKey:  "expire/" + holdID,
			SequenceKey: holdID,
			Pool:        x.Pool.Name(),
			EventType:   events.TypeHoldCancelled,
			Raw:         []byte(holdID),
			Error:       cause.Error(),
		})
	})
}
