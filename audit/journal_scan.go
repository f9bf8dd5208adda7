package audit

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/wait"
)

// pollInterval is how often an audit looks again at a store that has not reached a seq
// yet.
const pollInterval = 20 * time.Millisecond

// readPages sends the events with after < seq <= upTo, page by page, and closes the
// channel.
func readPages(
	ctx context.Context, conn *pgx.Conn, pool string, after, upTo int64, pages chan<- []journalEvent,
) error {
	defer close(pages)
	for after < upTo {
		page, err := readJournalEvents(ctx, conn, pool, after, upTo)
		if err != nil || len(page) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case pages <- page:
		}
		after = page[len(page)-1].seq
	}
	return nil
}

// journalScan advances the expected state past the audit's end, to the exact seq at which
// another store was read.
type journalScan struct {
	conn     *pgx.Conn
	pool     string
	wait     time.Duration // how long to wait for an event that the journal does not have yet
	expected *expected
	page     []journalEvent // read and not applied yet
}

// advanceTo applies events until the expected state has reached seq. It reports false if
// the journal does not reach seq within the wait. The expected state must not be past
// seq.
func (s *journalScan) advanceTo(ctx context.Context, seq int64) (reached bool, err error) {
	deadline := time.Now().Add(s.wait)
	for s.expected.seq < seq {
		for len(s.page) > 0 && s.expected.seq < seq {
			s.expected.apply(&s.page[0])
			s.page = s.page[1:]
		}
		if s.expected.seq >= seq {
			break
		}
		s.page, err = readJournalEvents(ctx, s.conn, s.pool, s.expected.seq, s.expected.seq+pageEvents)
		if err != nil {
			return false, err
		}
		if len(s.page) > 0 {
			continue
		}
		if time.Now().After(deadline) {
			return false, nil
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return false, err
		}
	}
	return true, nil
}

// advanceTo advances the expected state to seq, and reports whether it has reached it. If
// the journal does not reach seq in time, it reports that once, and does not wait for the
// journal again.
func (a *auditor) advanceTo(ctx context.Context, seq int64) (reached bool, err error) {
	if a.journalStuck.Load() && a.expected.seq < seq {
		return false, nil
	}
	reached, err = a.scan.advanceTo(ctx, seq)
	if err == nil && !reached {
		a.journalStuck.Store(true)
		a.found.addIncomplete("the journal ends at seq %d; it did not reach seq %d within %s",
			a.expected.seq, seq, a.config.Wait)
	}
	return reached, err
}
