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

// readJournal folds the journal from the state's seq up to upTo. Pages are read and decoded concurrently
// and folded in order; a few are in memory at a time. It fails as add does, and with Postgres's errors.
func (s *state) readJournal(ctx context.Context, postgres *pgx.ConnConfig, pool string, upTo int64, folded func(seq int64)) error {
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
					return ctx.Err() // its reader failed and returned why
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

// addWhole folds a page that must be full, except the last one.
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

// readPages reads every readWorkers-th page, beginning after a seq.
func readPages(ctx context.Context, postgres *pgx.ConnConfig, pool string, after, upTo int64, out chan<- []events.Envelope) error {
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
