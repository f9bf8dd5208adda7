package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// applyToEnd applies the journal's events up to the audit's end, and returns the position
// where the next audit starts if this one verifies everything.
//
// An audit that is not full first loads the keys to recheck. It then loads each key that
// an event changes, and at the end a number of unchanged keys, the next in turn.
func (a *auditor) applyToEnd(ctx context.Context, start position) (next position, err error) {
	next = start
	if !a.full {
		recheckErr := loadRecheckKeys(ctx, a.conns.work, a.pool, a.expected)
		hoursErr := loadHours(ctx, a.conns.work, a.pool, a.expected.hours, start.firstIncompleteHour)
		if err := errors.Join(recheckErr, hoursErr); err != nil {
			return next, err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	pages := make(chan []journalEvent, 2)
	group.Go(func() error { return readPages(groupCtx, a.conns.journal, a.pool, start.seq, a.end, pages) })
	group.Go(func() (err error) {
		next.streamID, err = a.compareStream(groupCtx, start.streamID)
		return err
	})
	ended := a.startEndedComparers(groupCtx, group)
	group.Go(func() error { return a.applyPages(groupCtx, pages, ended) })
	if err := group.Wait(); err != nil {
		return next, err
	}
	if a.expected.seq < a.end {
		a.found.addDifference(Difference{
			Store:    StoreJournal,
			Kind:     KindHole,
			Key:      seqKey(a.expected.seq + 1),
			Expected: fmt.Sprintf("events up to seq %d, the journal's checkpoint", a.end),
			Found:    fmt.Sprintf("the last event is %d", a.expected.seq),
			Seq:      a.expected.seq,
		})
		a.expected.seq = a.end
	}
	if !a.full {
		if err := loadNextInTurn(ctx, a.conns.work, a.pool, a.expected, &next); err != nil {
			return next, err
		}
	}
	return next, nil
}

// applyPages applies pages of events. After each it compares the hours that are complete,
// and sends the holds that ended to the comparers.
func (a *auditor) applyPages(
	ctx context.Context, pages <-chan []journalEvent, comparers []chan []*expectedHold,
) error {
	defer func() {
		for _, holds := range comparers {
			close(holds)
		}
	}()
	for page := range pages {
		if !a.full {
			if err := loadChangedKeys(ctx, a.conns.work, a.pool, a.expected, page); err != nil {
				return err
			}
		}
		for i := range page {
			a.expected.apply(&page[i])
		}
		a.found.count(func(c *Compared) { c.Events += int64(len(page)) })
		hoursErr := a.compareCompleteHours(ctx)
		endedErr := a.sendEndedHolds(ctx, comparers)
		if err := errors.Join(hoursErr, endedErr); err != nil {
			return err
		}
	}
	return a.sendEndedHolds(ctx, comparers) // the ended holds to recheck, if there were no events
}

// startEndedComparers starts a goroutine for each store that has ended holds: Redis, and
// the read tables that have rows of holds. It returns their channels, for the caller to
// close.
func (a *auditor) startEndedComparers(ctx context.Context, group *errgroup.Group) []chan []*expectedHold {
	comparers := []func([]*expectedHold) error{
		func(holds []*expectedHold) error { return a.compareEndedHolds(ctx, holds) },
	}
	for _, table := range readTables {
		if table.compareEnded == nil || !a.comparable[table.name] {
			continue
		}
		conn := a.conns.tables[table.name]
		comparers = append(comparers, func(holds []*expectedHold) error {
			return a.inSnapshot(ctx, conn, table.name, a.end, func(s *tableSnapshot) error {
				return table.compareEnded(ctx, s, holds)
			})
		})
	}
	channels := make([]chan []*expectedHold, len(comparers))
	for i, compare := range comparers {
		batches := make(chan []*expectedHold, 2)
		channels[i] = batches
		group.Go(func() error {
			for holds := range batches {
				if err := compare(holds); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return channels
}

// sendEndedHolds takes the ended holds from the expected state, and sends them to every
// comparer.
func (a *auditor) sendEndedHolds(ctx context.Context, comparers []chan []*expectedHold) error {
	holds := a.expected.ended
	a.expected.ended = nil
	if len(holds) == 0 {
		return nil
	}
	a.found.count(func(c *Compared) { c.Holds += int64(len(holds)) })
	for _, batches := range comparers {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batches <- holds:
		}
	}
	return nil
}
