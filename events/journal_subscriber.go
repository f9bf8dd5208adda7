package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
)

// JournalSubscriber delivers a pool's journal to one reader, in order and in batches, from the reader's checkpoint on.
// Of several processes one delivers at a time; another takes over within seconds when it dies.
type JournalSubscriber struct {
	*Line
	config JournalSubscriberConfig
}

// JournalSubscriberConfig says for whom to read, and with what.
type JournalSubscriberConfig struct {
	Postgres *pgx.ConnConfig
	Pool     Pool
	Pages    *JournalPages // shared by the readers of this process
	Reader   string        // the checkpoint to read from; the handler moves it
	BatchMax int           // events in a delivery; at most, and unless set, 2,000
	// Prepare makes ready what the handler writes to, before the checkpoint is read. It may be nil. What it returns
	// interrupts the line.
	Prepare func(ctx context.Context, conn *pgx.Conn) error
	Log     *slog.Logger
}

// journalPoll is how often the journal is looked at without having been notified.
const journalPoll = time.Second

var _ message.Subscriber = (*JournalSubscriber)(nil)

// NewJournalSubscriber returns a subscriber for one reader of one pool's journal.
func NewJournalSubscriber(config JournalSubscriberConfig) *JournalSubscriber {
	if config.BatchMax == 0 {
		config.BatchMax = BatchMaxDefault
	}
	return &JournalSubscriber{Line: NewLine(config.Reader, config.Log), config: config}
}

// JournalTopic is the topic under which a pool's journal is subscribed to.
func JournalTopic(pool Pool) string { return "journal/" + pool.Name() }

// Subscribe implements message.Subscriber. The topic must be the pool's JournalTopic.
func (s *JournalSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if topic != JournalTopic(s.config.Pool) {
		return nil, fmt.Errorf("subscribe to %q: this subscriber reads %q", topic, JournalTopic(s.config.Pool))
	}
	return s.Start(ctx, s.read)
}

// read delivers until something fails.
func (s *JournalSubscriber) read(ctx context.Context, out chan<- *message.Message) error {
	pool, reader := s.config.Pool.Name(), s.config.Reader
	lease, err := acquireLineLease(ctx, s.config.Postgres, "reader/"+reader+"/"+pool)
	if err != nil {
		return err
	}
	defer lease.Release()
	// A reader's rows and its checkpoint are lost together, and come again from the journal: there is no need to wait
	// for the disk at every commit.
	if _, err := lease.Conn.Exec(ctx, "SET synchronous_commit = off; LISTEN "+journalChannel); err != nil {
		return fmt.Errorf("listen to the journal: %w", err)
	}
	if s.config.Prepare != nil {
		if err := s.config.Prepare(ctx, lease.Conn); err != nil {
			return err
		}
	}
	checkpoint, err := ReadCheckpoint(ctx, lease.Conn, reader, pool)
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
			if err := s.rest(ctx, lease, checkpoint); err != nil {
				return err
			}
			continue
		}
		last := found[len(found)-1].Seq
		id := fmt.Sprintf("%s/%d-%d", pool, found[0].Seq, last)
		if err := deliver(ctx, out, id, &Batch{Pool: pool, After: checkpoint, Events: found, Lease: lease}); err != nil {
			return fmt.Errorf("batch %s: %w", id, err)
		}
		checkpoint = last
	}
}

// next reads what comes after a seq; nothing, where the journal ends there.
func (s *JournalSubscriber) next(ctx context.Context, lease *Lease, after int64) ([]Envelope, error) {
	ctx, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	return s.config.Pages.Read(ctx, lease.Conn, after, s.config.BatchMax)
}

// rest waits at the journal's end. It fails with ErrFenced when somebody has put the checkpoint elsewhere meanwhile: a
// reader that nothing is delivered to would never find out.
func (s *JournalSubscriber) rest(ctx context.Context, lease *Lease, checkpoint int64) error {
	notified, err := awaitJournal(ctx, lease.Conn)
	if err != nil || notified {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, silenceMax)
	defer cancel()
	now, err := ReadCheckpoint(ctx, lease.Conn, s.config.Reader, s.config.Pool.Name())
	if err == nil && now != checkpoint {
		return fmt.Errorf("the checkpoint is at %d, and was left at %d: %w", now, checkpoint, ErrFenced)
	}
	return err
}

// awaitJournal returns when the journal was written to, or when it is time to look anyway.
func awaitJournal(ctx context.Context, conn *pgx.Conn) (notified bool, err error) {
	wait, cancel := context.WithTimeout(ctx, journalPoll)
	defer cancel()
	_, err = conn.WaitForNotification(wait)
	if err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)) {
		return false, fmt.Errorf("wait for the journal: %w", err)
	}
	return err == nil, nil
}
