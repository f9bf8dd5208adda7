package journal

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
)

// Subscriber delivers a pool's journal to one reader, in order and in batches, from the reader's checkpoint on.
// Of several processes one delivers at a time; another takes over within seconds when it dies.
type Subscriber struct {
	*worker.Worker
	config SubscriberConfig
}

// SubscriberConfig says for whom to read, and with what.
type SubscriberConfig struct {
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	Pages    *PageCache // shared by the readers of this process
	Reader   string     // the checkpoint to read from; the handler moves it
	BatchMax int        // events in a delivery; at most, and unless set, 2,000
	// Prepare makes ready what the handler writes to, before the checkpoint is read. It may be nil. What it returns
	// interrupts the line.
	Prepare func(ctx context.Context, conn *pgx.Conn) error
	Log     *slog.Logger
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber returns a subscriber for one reader of one pool's journal.
func NewSubscriber(config SubscriberConfig) *Subscriber {
	if config.BatchMax == 0 {
		config.BatchMax = worker.BatchMaxDefault
	}
	return &Subscriber{Worker: worker.New(config.Reader, config.Log), config: config}
}

// Subscribe implements message.Subscriber. The topic must be the pool's JournalTopic.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != Topic(s.config.Pool) {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, Topic(s.config.Pool))
	}
	return s.Start(ctx, s.run)
}

// run delivers until something fails.
func (s *Subscriber) run(ctx context.Context, out chan<- *message.Message) error {
	pool, reader := s.config.Pool.Name(), s.config.Reader
	lease, err := worker.AcquireWorkerLease(ctx, s.config.Postgres, "reader/"+reader+"/"+pool)
	if err != nil {
		return err
	}
	defer lease.Release()
	// A reader's rows and its checkpoint are lost together, and come again from the journal: there is no need to wait
	// for the disk at every commit.
	if _, err := lease.Conn.Exec(ctx, "SET synchronous_commit = off; LISTEN "+notifyChannel); err != nil {
		return fmt.Errorf("listen to the journal: %w", err)
	}
	if s.config.Prepare != nil {
		if err := s.config.Prepare(ctx, lease.Conn); err != nil {
			return err
		}
	}
	checkpoint, err := worker.ReadCheckpoint(ctx, lease.Conn, reader, pool)
	if err != nil {
		return err
	}
	s.config.Pages.Forget()
	s.Running()
	for {
		found, err := s.next(ctx, lease, checkpoint)
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			if err := s.awaitEvents(ctx, lease, checkpoint); err != nil {
				return err
			}
			continue
		}
		last := found[len(found)-1].Seq
		id := fmt.Sprintf("%s/%d-%d", pool, found[0].Seq, last)
		if err := worker.Deliver(ctx, out, id, &Batch{Pool: pool, After: checkpoint, Events: found, Lease: lease}); err != nil {
			return fmt.Errorf("batch %s: %w", id, err)
		}
		checkpoint = last
	}
}

// next reads what comes after a seq; nothing, where the journal ends there.
func (s *Subscriber) next(ctx context.Context, lease *worker.Lease, after int64) ([]events.Envelope, error) {
	ctx, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	return s.config.Pages.Read(ctx, lease.Conn, after, s.config.BatchMax)
}

// awaitEvents waits at the journal's end. It fails with ErrFenced when somebody has put the checkpoint elsewhere meanwhile: a
// reader that nothing is delivered to would never find out.
func (s *Subscriber) awaitEvents(ctx context.Context, lease *worker.Lease, checkpoint int64) error {
	notified, err := awaitJournal(ctx, lease.Conn)
	if err != nil || notified {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	now, err := worker.ReadCheckpoint(ctx, lease.Conn, s.config.Reader, s.config.Pool.Name())
	if err == nil && now != checkpoint {
		return fmt.Errorf("the checkpoint is at %d, and was left at %d: %w", now, checkpoint, worker.ErrFenced)
	}
	return err
}

// Batch is one delivery of the journal: consecutive events of a pool, and the session to write their effects with.
// It rides in the context of a Watermill message, because it never leaves the process.
type Batch struct {
	Pool   string
	After  int64             // the checkpoint as the reader has it: the first event is the next one, unless the journal has a hole
	Events []events.Envelope // in order of seq, without a hole unless the journal has one
	Lease  *worker.Lease
}
