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

// FromNow is the After of a query that follows the journal from the next event on that it takes.
const FromNow = -1

const (
	followRetryInterval = 500 * time.Millisecond
	followTimeout       = 10 * time.Second // for one look at the journal; beyond it, Postgres is taken for gone
)

// Follow hands what a query asks for to take, in order and each event once, as it comes to the journal, until ctx ends;
// it returns nil then. It waits for notifications, with a poll behind them. When Postgres goes away after the first
// connection, Follow tells why, and goes on after the last event that was taken as soon as it can. It fails with the
// error of take, with that of the first connection, with ErrDetached, and with ErrRewritten.
func Follow(ctx context.Context, config *pgx.ConnConfig, q HistoryQuery, tell func(error), take func([]Recorded) error) error {
	f := &follower{query: q, handle: take}
	for {
		err := f.session(ctx, config)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end that was asked for
		case !f.connected || f.ended:
			return err
		}
		tell(err)
		_ = wait.For(ctx, followRetryInterval) // the next session finds that ctx has ended
	}
}

// follower is somebody's place in the journal, from one session to the next.
type follower struct {
	query     HistoryQuery // its After moves on with what was taken
	end       int64        // the journal's, as it was last seen
	handle      func([]Recorded) error
	connected bool // once, so that there is a journal to go back to
	ended      bool // for good: another session would not help
}

// session follows until something fails.
func (f *follower) session(ctx context.Context, config *pgx.ConnConfig) error {
	conn, err := postgres.Connect(ctx, config)
	if err != nil {
		return fmt.Errorf("follow the journal: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // nothing depends on a polite goodbye
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

// begin listens first and looks then: what comes to the journal in between is notified.
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
	if f.connected = true; f.query.After < 0 {
		f.query.After = end
	}
	return nil
}

// next takes one page, and reports whether there is another already.
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
		return false, fmt.Errorf("%w: it ended at %s, and ends at %s now", ErrRewritten, events.Position{Pool: f.query.Pool, Seq: f.end}, events.Position{Pool: f.query.Pool, Seq: page.End})
	}
	if len(page.Events) > 0 {
		if err := f.handle(page.Events); err != nil {
			f.ended = true
			return false, err
		}
	}
	f.query.After, f.end = page.Next, page.End
	return page.More, nil
}
