package recovery

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
)

const (
	readPage    = 5000 // events read and decoded in one step
	readWorkers = 2    // concurrent sessions, since decoding takes most of the time
)

// readJournal folds the journal's events after the state's seq, up to upTo, and calls
// folded after each page. It works in these steps:
//
//  1. readWorkers goroutines, each with a session of Postgres, read and decode every
//     readWorkers-th page.
//  2. One goroutine folds the pages in their order. At most two pages per reader are in
//     memory besides.
//
// Its errors are those of add, and Postgres's.
func (s *state) readJournal(
	ctx context.Context, postgres *pgx.ConnConfig, pool string, upTo int64, folded func(seq int64),
) error {
	if s.seq >= upTo {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	var pages [readWorkers]chan []events.Envelope
	for worker := range pages {
		out := make(chan []events.Envelope, 1)
		pages[worker] = out
		after := s.seq + int64(worker)*readPage
		group.Go(func() error {
			defer close(out)
			return readPages(ctx, postgres, pool, after, upTo, out)
		})
	}
	group.Go(func() error {
		for next := 0; s.seq < upTo; next++ {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case page, more := <-pages[next%readWorkers]:
				if !more {
					return ctx.Err() // the page's reader failed, and returned its own error
				}
				if err := s.addWhole(page, upTo); err != nil {
					return err
				}
				folded(s.seq)
			}
		}
		return nil
	})
	return group.Wait()
}

// addWhole folds a page, and fails with ErrJournalIncomplete unless the page is full or
// reaches upTo.
func (s *state) addWhole(page []events.Envelope, upTo int64) error {
	want := min(s.seq+readPage, upTo)
	if err := s.add(page); err != nil {
		return err
	}
	if s.seq < want {
		return s.missing()
	}
	return nil
}

// readPages sends to out the page that begins after a seq, and every readWorkers-th page
// that follows.
func readPages(
	ctx context.Context, postgres *pgx.ConnConfig, pool string,
	after, upTo int64, out chan<- []events.Envelope,
) error {
	conn, err := pgx.ConnectConfig(ctx, postgres.Copy())
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for ; after < upTo; after += readWorkers * readPage {
		page, err := journal.ReadEvents(ctx, conn, pool, after, int(min(readPage, upTo-after)))
		if err != nil {
			return err
		}
		if err := send(ctx, out, page); err != nil {
			return err
		}
	}
	return nil
}
