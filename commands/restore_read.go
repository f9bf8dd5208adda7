package commands

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
)

const (
	readPage    = 5000 // events that are read and decoded in one step
	readWorkers = 2    // sessions that read side by side: decoding is what takes the time
)

// readJournal folds the journal from where the fold ends, up to a seq. Pages are read and decoded side by side and
// folded in order; few are in memory at a time. It fails as fold.add does, and with the errors of Postgres.
func (f *fold) readJournal(ctx context.Context, postgres *pgx.ConnConfig, pool string, upTo int64, folded func(seq int64)) error {
	if f.seq >= upTo {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	var pages [readWorkers]chan []events.Envelope
	for worker := range pages {
		out := make(chan []events.Envelope, 1)
		pages[worker] = out
		after := f.seq + int64(worker)*readPage
		group.Go(func() error {
			defer close(out)
			return readPages(ctx, postgres, pool, after, upTo, out)
		})
	}
	group.Go(func() error {
		for next := 0; f.seq < upTo; next++ {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case page, more := <-pages[next%readWorkers]:
				if !more {
					return ctx.Err() // its reader failed, and says why
				}
				if err := f.addWhole(page, upTo); err != nil {
					return err
				}
				folded(f.seq)
			}
		}
		return nil
	})
	return group.Wait()
}

// addWhole takes a page that must be as long as it can be.
func (f *fold) addWhole(page []events.Envelope, upTo int64) error {
	want := min(f.seq+readPage, upTo)
	if err := f.add(page); err != nil {
		return err
	}
	if f.seq < want {
		return f.hole()
	}
	return nil
}

// readPages reads every page that is this worker's.
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
		if err := handOn(ctx, out, page); err != nil {
			return err
		}
	}
	return nil
}
