package rebuild

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

const (
	// closeEnoughEvents is how many events a shadow may be behind when the next step begins.
	closeEnoughEvents = 2000
	// pagesAhead is how many pages wait for each projection; they are what a rebuild's memory goes into.
	pagesAhead = 1
)

// catchUp replays until no shadow is far behind its live tables. What is live moves on meanwhile, so each round has
// less to do than the one before.
func (j *Job) catchUp(ctx context.Context, shadows ...*shadow) error {
	for {
		targets, err := liveCheckpoints(ctx, j.db, shadows)
		if err != nil {
			return err
		}
		j.pace.aim(slices.Max(targets))
		if err := j.replay(ctx, shadows, targets); err != nil {
			return err
		}
		now, err := liveCheckpoints(ctx, j.db, shadows)
		if err != nil {
			return err
		}
		furthest := int64(0)
		for i, s := range shadows {
			furthest = max(furthest, now[i]-s.seq.Load())
		}
		if furthest <= closeEnoughEvents {
			return nil
		}
	}
}

// liveCheckpoints returns how far the live tables of each shadow have come.
func liveCheckpoints(ctx context.Context, db events.Querier, shadows []*shadow) ([]int64, error) {
	seqs := make([]int64, len(shadows))
	for i, s := range shadows {
		var err error
		if seqs[i], err = events.ReadCheckpoint(ctx, db, s.Name, s.pool); err != nil {
			return nil, err
		}
	}
	return seqs, nil
}

// replay brings each shadow to its target. The journal is read and decoded once, by two readers in turn, ahead of the
// projections, which work side by side.
func (j *Job) replay(ctx context.Context, shadows []*shadow, targets []int64) error {
	first, last := int64(-1), int64(0)
	for i, s := range shadows {
		if from := s.seq.Load(); from < targets[i] {
			last = max(last, targets[i])
			if first < 0 || from < first {
				first = from
			}
		}
	}
	if first < 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	feeds := make([]chan []events.Envelope, len(shadows))
	for i, s := range shadows {
		feeds[i] = make(chan []events.Envelope, pagesAhead)
		group.Go(func() error { return j.applyPages(ctx, s, targets[i], feeds[i]) })
	}
	read := make([]chan []events.Envelope, len(j.readers))
	size := int64(j.config.BatchMax)
	for i, reader := range j.readers {
		read[i] = make(chan []events.Envelope)
		group.Go(func() error {
			return j.readPages(ctx, reader, first+int64(i)*size, last, int64(len(j.readers))*size, read[i])
		})
	}
	group.Go(func() error { return distribute(ctx, read, feeds) })
	return group.Wait()
}

// readPages reads a page of the journal after a seq, and another one each stride further on, until it comes to last.
func (j *Job) readPages(ctx context.Context, db events.Querier, after, last, stride int64, pages chan<- []events.Envelope) error {
	defer close(pages)
	for ; after < last; after += stride {
		size := min(int64(j.config.BatchMax), last-after)
		page, err := events.ReadEvents(ctx, db, j.config.Pool.Name(), after, int(size))
		if err != nil {
			return err
		}
		if int64(len(page)) != size || page[size-1].Seq != after+size {
			return fmt.Errorf("%w: the journal lacks an event between %d and %d", events.ErrHole, after+1, after+size)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case pages <- page:
		}
	}
	return nil
}

// distribute hands every page to everyone. The readers take turns, so it takes from them in turn.
func distribute(ctx context.Context, read []chan []events.Envelope, feeds []chan []events.Envelope) error {
	for _, feed := range feeds {
		defer close(feed)
	}
	for turn := 0; ; turn++ {
		page, more := <-read[turn%len(read)]
		if !more { // the other readers have come to the end, too
			return nil
		}
		for _, feed := range feeds {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case feed <- page:
			}
		}
	}
}

// applyPages gives a shadow what it is fed, up to its target. The pages are shared with others, and stay as they are.
func (j *Job) applyPages(ctx context.Context, s *shadow, target int64, pages <-chan []events.Envelope) error {
	for page := range pages {
		part := eventsBetween(page, s.seq.Load(), target)
		if len(part) == 0 {
			continue
		}
		if err := j.pace.wait(ctx); err != nil {
			return err
		}
		if err := s.replay(ctx, s.conn, part, j); err != nil {
			return fmt.Errorf("replay of %s: %w", s.Name, err)
		}
		s.seq.Store(part[len(part)-1].Seq)
		j.pace.came(j.lowestSeq())
	}
	return ctx.Err()
}

// replay applies events to the shadow in one transaction on db, whose search_path must begin with the shadow's schema.
func (s *shadow) replay(ctx context.Context, db projections.Beginner, list []events.Envelope, j *Job) error {
	return projections.Replay(ctx, db, s.Projection, s.pool, list, j.config.Log.With("rebuild", j.id, "projection", s.Name))
}

// eventsBetween returns the events of a page after one seq, up to another. The page has no hole.
func eventsBetween(page []events.Envelope, after, upTo int64) []events.Envelope {
	first := page[0].Seq
	from, to := max(0, after+1-first), min(int64(len(page)), upTo+1-first)
	if from >= to {
		return nil
	}
	return page[from:to]
}

// lowestSeq returns the seq to which every shadow has come.
func (j *Job) lowestSeq() int64 {
	least := j.shadows[0].seq.Load()
	for _, s := range j.shadows {
		least = min(least, s.seq.Load())
	}
	return least
}
