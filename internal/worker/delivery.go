package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// BatchMaxDefault is how many events a batch has at most, unless a configuration sets
// another number.
const BatchMaxDefault = 2000

// StepTimeout bounds one step of a worker: reading a batch, or handling one. A network
// that drops packets reports no error, so after this time Postgres counts as unreachable.
// Tests set it lower.
var StepTimeout = time.Minute

// drainTimeout is how long a batch may go on after its worker was asked to stop.
const drainTimeout = 20 * time.Second

// Delivery is one Watermill message on its way through the Router: its batch and, if the
// handler refuses it, the reason. It travels in the message's context, because neither
// ever leaves the process.
type Delivery struct {
	Message *message.Message
	batch   any
	fault   error // written by ReportFault before the message is nacked
}

type deliveryKey struct{}

func deliveryOf(msg *message.Message) *Delivery {
	d, _ := msg.Context().Value(deliveryKey{}).(*Delivery)
	return d
}

// NewDelivery returns a delivery whose message has this id. Its handler runs under ctx.
// The batch may be nil if the handler needs only the id.
func NewDelivery(ctx context.Context, id string, batch any) *Delivery {
	d := &Delivery{
		Message: message.NewMessage(id, nil),
		batch:   batch,
		fault:   errors.New("the message was not acknowledged"),
	}
	d.Message.SetContext(context.WithValue(ctx, deliveryKey{}, d))
	return d
}

// Wait returns when the message was handled: nil if it was acknowledged, otherwise the
// handler's error.
func (d *Delivery) Wait() error {
	select {
	case <-d.Message.Acked():
		return nil
	case <-d.Message.Nacked():
		return d.fault
	}
}

// BatchOf returns the batch that a message carries, or nil if it carries no *T.
func BatchOf[T any](msg *message.Message) *T {
	d := deliveryOf(msg)
	if d == nil {
		return nil
	}
	batch, _ := d.batch.(*T)
	return batch
}

// Deliver sends a batch to the Router and returns nil once it was acknowledged. The
// Router runs a goroutine per message, so a worker keeps one delivery in flight;
// otherwise the order would be lost.
//
// The message's context outlives intake: a batch in flight at shutdown may be finished
// within drainTimeout, instead of being cancelled.
func Deliver(intake context.Context, out chan<- *message.Message, id string, batch any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(intake), StepTimeout)
	defer cancel()
	stop := context.AfterFunc(intake, func() {
		timer := time.AfterFunc(drainTimeout, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	defer stop()

	d := NewDelivery(ctx, id, batch)
	select {
	case <-intake.Done():
		return intake.Err()
	case out <- d.Message:
	}
	return d.Wait()
}

// ReportFault is the outermost middleware of every handler. It records in the delivery
// why a message was refused, be it an error or a panic. The Router itself only reports
// that it was refused.
func ReportFault(next message.HandlerFunc) message.HandlerFunc {
	next = middleware.Recoverer(next)
	return func(msg *message.Message) ([]*message.Message, error) {
		produced, err := next(msg)
		if panicked := (middleware.RecoveredPanicError{}); errors.As(err, &panicked) {
			err = &PanicError{Value: panicked.V, Stack: panicked.Stacktrace}
		}
		if d := deliveryOf(msg); d != nil {
			d.fault = err
		}
		return produced, err
	}
}

// PanicError is the error of a handler that panicked.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// CatchPanic returns a function that calls do and returns its error, or a PanicError if
// do panics. A goroutine that panics would end the whole process.
func CatchPanic(do func() error) func() error {
	return func() (err error) {
		defer func() {
			if value := recover(); value != nil {
				err = &PanicError{Value: value, Stack: string(debug.Stack())}
			}
		}()
		return do()
	}
}
