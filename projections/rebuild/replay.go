package rebuild

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

const (
	// closeEnoughEvents is how many events a shadow may be behind the live tables when
	// catchUp ends.
	closeEnoughEvents = 2000
	// pagesAhead is how many pages are buffered for each projection. The buffered pages
	// are most of a rebuild's memory.
	pagesAhead = 1
)

// catchUp replays until every shadow is close to its live tables. The live workers apply
// further events meanwhile, so it replays in rounds, each shorter than the one before.
func (j *Job) catchUp(ctx context.Context, shadows ...*shadow) error {
	for {
		targets, err := liveCheckpoints(ctx, j.db, shadows)
		if err != nil {
			return err
		}
		j.tracker.raiseTotal(slices.Max(targets))
		if err := j.replay(ctx, shadows, targets); err != nil {
			return err
		}
		now, err := liveCheckpoints(ctx, j.db, shadows)
		if err != nil {
			return err
		}
		behind := int64(0)
		for i, s := range shadows {
			behind = max(behind, now[i]-s.seq.Load())
		}
		if behind <= closeEnoughEvents {
			return nil
		}
	}
}

// liveCheckpoints returns the checkpoint of the live tables of each shadow.
func liveCheckpoints(ctx context.Context, db postgres.Querier, shadows []*shadow) ([]int64, error) {
	seqs := make([]int64, len(shadows))
	for i, s := range shadows {
		var err error
		if seqs[i], err = worker.ReadCheckpoint(ctx, db, s.Name, s.pool); err != nil {
			return nil, err
		}
	}
	return seqs, nil
}

// replay applies the journal to each shadow up to its target seq:
//
//  1. Two readers read and decode the pages of the journal once, in turn.
//  2. One goroutine hands each page, in order, to every shadow.
//  3. One goroutine for each shadow applies the pages.
func (j *Job) replay(ctx context.Context, shadows []*shadow, targets []int64) error {
	after := int64(-1) // the lowest seq of the shadows that are below their targets
	last := int64(0)
	for i, s := range shadows {
		if seq := s.seq.Load(); seq < targets[i] {
			last = max(last, targets[i])
			if after < 0 || seq < after {
				after = seq
			}
		}
	}
	if after < 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	toShadows := make([]chan []events.Envelope, len(shadows))
	for i, s := range shadows {
		toShadows[i] = make(chan []events.Envelope, pagesAhead)
		group.Go(worker.CatchPanic(func() error { return j.applyPages(ctx, s, targets[i], toShadows[i]) }))
	}
	fromReaders := make([]chan []events.Envelope, len(j.readers))
	size := int64(j.config.BatchMax)
	stride := int64(len(j.readers)) * size
	for i, reader := range j.readers {
		fromReaders[i] = make(chan []events.Envelope)
		group.Go(worker.CatchPanic(func() error {
			return j.readPages(ctx, reader, after+int64(i)*size, last, stride, fromReaders[i])
		}))
	}
	group.Go(worker.CatchPanic(func() error { return distribute(ctx, fromReaders, toShadows) }))
	return group.Wait()
}

// readPages reads the page of the journal after the seq after, then the page one stride
// further, and so on up to the seq last. It fails with journal.ErrHole if an event is
// missing.
func (j *Job) readPages(
	ctx context.Context, db postgres.Querier, after, last, stride int64, pages chan<- []events.Envelope,
) error {
	defer close(pages)
	for ; after < last; after += stride {
		size := min(int64(j.config.BatchMax), last-after)
		page, err := journal.ReadEvents(ctx, db, j.config.Pool.Name(), after, int(size))
		if err != nil {
			return err
		}
		if int64(len(page)) != size || page[size-1].Seq != after+size {
			return fmt.Errorf("%w: the journal lacks an event from seq %d to %d",
				journal.ErrHole, after+1, after+size)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case pages <- page:
		}
	}
	return nil
}

// distribute sends every page to every shadow. It takes the pages from the readers in
// turn, which is the order of the journal.
func distribute(ctx context.Context, fromReaders, toShadows []chan []events.Envelope) error {
	for _, pages := range toShadows {
		defer close(pages)
	}
	for turn := 0; ; turn++ {
		page, more := <-fromReaders[turn%len(fromReaders)]
		if !more { // the pages are read in turn, so the other reader has no more either
			return nil
		}
		for _, pages := range toShadows {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case pages <- page:
			}
		}
	}
}

// applyPages applies the events of the pages to a shadow, up to its target seq. The other
// shadows receive the same slices, so applyPages never changes a page.
func (j *Job) applyPages(ctx context.Context, s *shadow, target int64, pages <-chan []events.Envelope) error {
	for page := range pages {
		batch := eventsBetween(page, s.seq.Load(), target)
		if len(batch) == 0 {
			continue
		}
		if err := j.throttle.wait(ctx); err != nil {
			return err
		}
		if err := s.replay(ctx, s.conn, batch, j); err != nil {
			return fmt.Errorf("replay %s: %w", s.Name, err)
		}
		s.seq.Store(batch[len(batch)-1].Seq)
		j.tracker.raiseDone(j.lowestSeq())
	}
	return ctx.Err()
}

// replay applies a batch to the shadow in one transaction on db, whose search_path must
// begin with the shadow schema.
func (s *shadow) replay(ctx context.Context, db projections.Beginner, batch []events.Envelope, j *Job) error {
	log := j.config.Log.With("rebuild", j.id, "projection", s.Name)
	return projections.Replay(ctx, db, s.Projection, s.pool, batch, log)
}

// eventsBetween returns the events of a page whose seqs are above after and at most upTo.
// The page must have consecutive seqs.
func eventsBetween(page []events.Envelope, after, upTo int64) []events.Envelope {
	first := page[0].Seq
	from := max(0, after+1-first)
	to := min(int64(len(page)), upTo+1-first)
	if from >= to {
		return nil
	}
	return page[from:to]
}

// lowestSeq returns the lowest seq of the shadows, which every shadow has reached.
func (j *Job) lowestSeq() int64 {
	lowest := j.shadows[0].seq.Load()
	for _, s := range j.shadows {
		lowest = min(lowest, s.seq.Load())
	}
	return lowest
}
