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

// Topic is the Watermill topic of a pool's journal.
func Topic(pool events.Pool) string { return "journal/" + pool.Name() }

// Subscriber delivers a pool's journal to one reader, such as a projection: in order and
// in batches, from the reader's checkpoint on. Of several processes only the holder of
// the lease delivers. If it dies, another takes over within seconds.
type Subscriber struct {
	*worker.Worker
	config SubscriberConfig
}

// SubscriberConfig says which reader to deliver to, and with which resources.
type SubscriberConfig struct {
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	Pages    *PageCache // shared by the readers of this process
	Reader   string     // the name of the reader's checkpoint; the handler moves it
	BatchMax int        // events in one batch; 0 for 2,000
	// Prepare runs before the checkpoint is read, for example to create the handler's
	// tables. An error ends the run. It may be nil.
	Prepare func(ctx context.Context, conn *pgx.Conn) error
	Log     *slog.Logger
}

// Batch is one delivery of the journal: consecutive events of a pool, and the session
// through which the handler writes their effects. It travels in the context of a
// Watermill message, because it never leaves the process.
type Batch struct {
	Pool  string
	After int64 // the reader's checkpoint
	// Events are in order of seq. They are consecutive and begin right after After,
	// unless the journal has a hole.
	Events []events.Envelope
	Lease  *worker.Lease
}

var _ message.Subscriber = (*Subscriber)(nil)

// NewSubscriber returns a subscriber for one reader of one pool's journal.
func NewSubscriber(config SubscriberConfig) *Subscriber {
	if config.BatchMax == 0 {
		config.BatchMax = worker.BatchMaxDefault
	}
	return &Subscriber{
		Worker: worker.New(config.Reader, config.Log),
		config: config,
	}
}

// Subscribe implements message.Subscriber. The topic must be the Topic of the pool.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != Topic(s.config.Pool) {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, Topic(s.config.Pool))
	}
	return s.Start(ctx, s.run)
}

// run delivers batches until something fails.
func (s *Subscriber) run(ctx context.Context, out chan<- *message.Message) error {
	pool := s.config.Pool.Name()
	reader := s.config.Reader
	lease, err := worker.AcquireWorkerLease(ctx, s.config.Postgres, "reader/"+reader+"/"+pool)
	if err != nil {
		return err
	}
	defer lease.Release()
	// A commit need not wait for the disk. If Postgres crashes and loses a commit, it
	// loses the reader's rows together with the checkpoint, and the journal delivers
	// those events again.
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
		if err != nil {
			return err
		}
		if len(found) == 0 {
			if err := s.awaitEvents(ctx, lease, checkpoint); err != nil {
				return err
			}
			continue
		}
		last := found[len(found)-1].Seq
		id := fmt.Sprintf("%s/%d-%d", pool, found[0].Seq, last)
		batch := &Batch{
			Pool:   pool,
			After:  checkpoint,
			Events: found,
			Lease:  lease,
		}
		if err := worker.Deliver(ctx, out, id, batch); err != nil {
			return fmt.Errorf("batch %s: %w", id, err)
		}
		checkpoint = last
	}
}

// next reads the events after a seq. It returns none if the journal ends there.
func (s *Subscriber) next(ctx context.Context, lease *worker.Lease, after int64) ([]events.Envelope, error) {
	ctx, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	return s.config.Pages.Read(ctx, lease.Conn, after, s.config.BatchMax)
}

// awaitEvents waits at the journal's end, until a notification or for a short while. It
// fails with ErrFenced if the checkpoint was moved meanwhile, for example by a rebuild:
// without a batch to deliver, the reader would not notice otherwise.
func (s *Subscriber) awaitEvents(ctx context.Context, lease *worker.Lease, checkpoint int64) error {
	notified, err := awaitJournal(ctx, lease.Conn)
	if err != nil || notified {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, worker.StepTimeout)
	defer cancel()
	now, err := worker.ReadCheckpoint(ctx, lease.Conn, s.config.Reader, s.config.Pool.Name())
	if err != nil {
		return err
	}
	if now != checkpoint {
		return fmt.Errorf("the checkpoint is at %d, and was left at %d: %w",
			now, checkpoint, worker.ErrFenced)
	}
	return nil
}
