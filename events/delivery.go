package events

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// Batch is one delivery of the journal: consecutive events of a pool, and the session to write their effects with.
// It rides in the context of a Watermill message, because it never leaves the process.
type Batch struct {
	Pool   string
	After  int64      // the checkpoint as the reader has it: the first event is the next one, unless the journal has a hole
	Events []Envelope // in order of seq, without a hole unless the journal has one
	Lease  *Lease
}

// StreamBatch is one delivery of the stream: entries in stream order, events or not.
type StreamBatch struct {
	Pool    Pool
	Entries []Entry
	Epoch   int64 // the life of the log that they were read in
	Lease   *Lease
}

// BatchMaxDefault is how many events a delivery has at most, unless a configuration says otherwise.
const BatchMaxDefault = 2000

type batchKey struct{}

type faultKey struct{}

// ReportFault is the outermost middleware of every handler. It tells the line why a message was not taken, be it an error
// or a panic; the Router passes on only that it was not.
func ReportFault(next message.HandlerFunc) message.HandlerFunc {
	next = middleware.Recoverer(next)
	return func(msg *message.Message) ([]*message.Message, error) {
		produced, err := next(msg)
		if panicked := (middleware.RecoveredPanicError{}); errors.As(err, &panicked) {
			err = &PanicError{Value: panicked.V, Stack: panicked.Stacktrace}
		}
		if fault, ok := msg.Context().Value(faultKey{}).(*error); ok {
			*fault = err
		}
		return produced, err
	}
}

// PanicError is the fault of a handler that panicked.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

var errNotTaken = errors.New("the message was not taken")

// WithFault returns a context for a message, and the place at which ReportFault leaves why that was not taken.
func WithFault(ctx context.Context) (context.Context, *error) {
	fault := errNotTaken
	return context.WithValue(ctx, faultKey{}, &fault), &fault
}

// BatchOf returns the batch that a message carries. It is nil for a message that another subscriber made.
func BatchOf[T Batch | StreamBatch](msg *message.Message) *T {
	batch, _ := msg.Context().Value(batchKey{}).(*T)
	return batch
}

// silenceMax is how long a step of a line may take, be it reading or handling a batch. Beyond it, Postgres is taken for
// gone: a network that swallows packets says nothing. Tests set it lower.
var silenceMax = time.Minute

// drainTimeout is how long a batch that is being handled may go on after its line was told to stop.
const drainTimeout = 20 * time.Second

// deliver hands a batch over, and returns nil once it was acknowledged. The Router runs a goroutine per message, so a
// line has one delivery under way at a time, or its order would be lost. The message's own context ends with the
// handling, not with the intake: a batch in flight at shutdown is finished, not torn.
func deliver(intake context.Context, out chan<- *message.Message, id string, batch any) error {
	ctx, fault := WithFault(context.WithValue(context.WithoutCancel(intake), batchKey{}, batch))
	ctx, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	stop := context.AfterFunc(intake, func() {
		timer := time.AfterFunc(drainTimeout, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	defer stop()

	msg := message.NewMessage(id, nil)
	msg.SetContext(ctx)
	select {
	case <-intake.Done():
		return intake.Err()
	case out <- msg:
	}
	select {
	case <-msg.Acked():
		return nil
	case <-msg.Nacked():
		return *fault
	}
}
