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

// Expiry turns due holds into cancellations with the reason "expired"; their stock returns in the same step.
type Expiry struct {
	Commands *commands.Service
	Redis    redis.Cmdable
	Postgres *pgxpool.Pool // for dead letters only: holds expire while Postgres is away
	Pool     events.Pool
	Log      *slog.Logger
}

// AddTo adds the saga to the router, and returns its line.
func (x *Expiry) AddTo(router *message.Router) *worker.Worker {
	subscriber := NewDueSubscriber(x.Redis, x.Pool, x.Log)
	router.AddConsumerHandler("saga expiry", x.Pool.DueKey(), subscriber, x.handle).AddMiddleware(worker.ReportFault)
	return subscriber.Worker
}

// handle expires one hold.
func (x *Expiry) handle(msg *message.Message) error {
	ctx, holdID := msg.Context(), msg.UUID
	_, err := x.Commands.Cancel(commands.WithMetadata(ctx, map[string]string{journal.MetadataCausationID: "expiry/" + holdID}), commands.Cancel{HoldID: holdID, Expired: true})
	return x.settle(ctx, holdID, err)
}

// settle makes of a command's outcome that of the delivery. A hold that is to blame itself is dead-lettered and taken
// off the set; adding it again (ZADD holds:due 0 <hold_id>) tries it anew. Any other error fails the delivery, and the
// hold is found again.
func (x *Expiry) settle(ctx context.Context, holdID string, err error) error {
	switch {
	case err == nil, ended(err):
		return nil
	case !blamesHold(err):
		return err
	}
	x.Log.Error("due hold cannot be cancelled; parked as a dead letter", "hold_id", holdID, "error", err)
	if err := x.park(ctx, holdID, err); err != nil {
		return err
	}
	if err := x.Redis.ZRem(ctx, x.Pool.DueKey(), holdID).Err(); err != nil {
		return fmt.Errorf("take hold %s off the due set: %w", holdID, err)
	}
	return nil
}

// ended reports whether there is nothing to do any more: the hold ended in another way, or is not due after all. The
// script has put the set right.
func ended(err error) bool {
	return errors.Is(err, commands.ErrHoldConfirmed) || errors.Is(err, commands.ErrHoldCancelled) || errors.Is(err, commands.ErrNotDue)
}

// blamesHold reports whether the hold would be refused however often it is tried. What is not known for that is not.
func blamesHold(err error) bool {
	var malformed *commands.ValidationError
	return errors.Is(err, commands.ErrStateInvalid) || errors.Is(err, commands.ErrUnknownHold) || errors.As(err, &malformed)
}

func (x *Expiry) park(ctx context.Context, holdID string, cause error) error {
	return pgx.BeginFunc(ctx, x.Postgres, func(tx pgx.Tx) error {
		return deadletters.Park(ctx, tx, deadletters.Letter{
			Source: deadletters.SourceSaga, MessageKey: "expire/" + holdID, SequenceKey: holdID, Pool: x.Pool.Name(),
			EventType: events.TypeHoldCancelled, Raw: []byte(holdID), Error: cause.Error(),
		})
	})
}
