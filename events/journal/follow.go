package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
)

// FromNow is the After of a query that Follow answers with future events only.
const FromNow = -1

const (
	followRetryInterval = 500 * time.Millisecond
	followTimeout       = 10 * time.Second // for reading one page; after it, Postgres counts as unreachable
)

// Follow calls handle with each page of events that matches q, in order and each event
// once, and goes on as the journal grows. It returns nil when ctx ends. It reads when
// Postgres notifies it, and once a second in any case.
//
// If the connection is lost later on, Follow calls report with the error, connects again
// and continues after the last event handled. It returns an error only if it cannot
// continue: the error of handle or of the first connection, ErrBeyondEnd, ErrDetached, or
// ErrRewritten.
func Follow(
	ctx context.Context,
	config *pgx.ConnConfig,
	q HistoryQuery,
	report func(error),
	handle func([]Recorded) error,
) error {
	f := &follower{query: q, handle: handle}
	for {
		err := f.session(ctx, config)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the caller asked for this end
		case !f.connected || f.ended:
			return err
		}
		report(err)
		_ = wait.For(ctx, followRetryInterval) // if ctx has ended, the next session returns at once
	}
}

// follower is the state of one call of Follow, from one connection to the next.
type follower struct {
	query     HistoryQuery // its After moves behind each page handled
	end       int64        // the journal's last seq, as of the last page
	handle    func([]Recorded) error
	connected bool // set by the first connection that worked
	ended     bool // set if the error is one that a new connection would not cure
}

// session follows the journal over one connection until something fails.
func (f *follower) session(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := postgres.Connect(ctx, config)
	if err != nil {
		return fmt.Errorf("follow the journal: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // the session ends anyway
	}()
	if err := f.begin(ctx, conn); err != nil {
		return fmt.Errorf("follow the journal: %w", err)
	}
	for {
		more, err := f.next(ctx, conn)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if _, err := awaitJournal(ctx, conn); err != nil {
			return err
		}
	}
}

// begin starts to listen, and only then reads where the journal ends. So every later
// event is notified.
func (f *follower) begin(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "LISTEN "+notifyChannel); err != nil {
		return err
	}
	_, end, err := bounds(ctx, conn, f.query.Pool)
	if err != nil {
		return err
	}
	if !f.connected {
		if err := f.query.CheckEnd(end); err != nil {
			return err
		}
	}
	f.connected = true
	if f.query.After < 0 {
		f.query.After = end
	}
	return nil
}

// next handles one page, and reports whether another one can be read at once.
func (f *follower) next(ctx context.Context, conn *pgx.Conn) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	page, err := ReadHistory(ctx, conn, f.query)
	if err != nil {
		f.ended = errors.Is(err, ErrDetached)
		return false, err
	}
	if page.End < f.end {
		f.ended = true
		before := events.Position{Pool: f.query.Pool, Seq: f.end}
		now := events.Position{Pool: f.query.Pool, Seq: page.End}
		return false, fmt.Errorf("%w: it ended at %s, and now ends at %s", ErrRewritten, before, now)
	}
	if len(page.Events) > 0 {
		if err := f.handle(page.Events); err != nil {
			f.ended = true
			return false, err
		}
	}
	f.query.After = page.Next
	f.end = page.End
	return page.More, nil
}
