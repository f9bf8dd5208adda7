package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/events"
)

// Config says what to audit, and with what. The client stays the caller's to close; an audit opens connections to
// Postgres of its own, so that it takes none away from the API.
type Config struct {
	Postgres *pgx.ConnConfig
	Redis    redis.UniversalClient
	Pool     events.Pool
	// Wait is how long journal and projections may take to come to where the log is; 10 s unless set. What does not come
	// there makes the audit incomplete.
	Wait time.Duration
	// LockWait is how long another audit of the pool may take to end; 5 s unless set.
	LockWait time.Duration
}

// ErrAuditRunning is returned where there is no audit: another one of the pool is running, or Postgres does not answer.
var ErrAuditRunning = errors.New("another audit is running")

// auditor is one audit under way.
type auditor struct {
	config     Config
	full       bool
	end        int64 // the end of the journal when the audit began
	expected       *expected
	scan   *journalScan
	found      *findings
	conns      conns
	comparable map[string]bool // read tables whose projection has come to end

	redisLost, journalStuck atomic.Bool // noted; there is no use in waiting again
}

// conns are the sessions of an audit, each for one thing at a time. The first one holds the lease.
type conns struct{ work, journal, ended, holds, orders, hours, stream *pgx.Conn }

// Run audits a pool: from the last verified seq, or from zero if asked to, or where there is none. What it finds is
// in the report, and kept for Last; an error says that there is no report. Of two at once, one waits, and gives up with
// ErrBusy.
func Run(ctx context.Context, config Config, full bool) (*Report, error) {
	if config.Wait == 0 {
		config.Wait = 10 * time.Second
	}
	if config.LockWait == 0 {
		config.LockWait = 5 * time.Second
	}
	lease, err := acquire(ctx, config)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	a := &auditor{config: config, comparable: map[string]bool{}, conns: conns{work: lease.Conn}}
	report, err := a.attempt(ctx, full)
	if err != nil && ctx.Err() == nil {
		a.keepFailure(ctx, err)
	}
	return report, err
}

// attempt audits, and keeps the report.
func (a *auditor) attempt(ctx context.Context, full bool) (*Report, error) {
	began := time.Now()
	a.found = newFindings(a.config.Pool.Name(), full)
	closeConns, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConns()
	from, err := a.begin(ctx, full)
	if err != nil {
		return nil, err
	}
	verified, err := a.run(ctx, from)
	if err != nil {
		return nil, err
	}
	return a.finish(ctx, verified, time.Since(began))
}

// keepFailure leaves word for Last that an audit was not possible, and why. That Postgres may be the reason is why its
// own failure is not told.
func (a *auditor) keepFailure(ctx context.Context, cause error) {
	a.found.incomplete("%v", cause)
	a.found.report.conclude(time.Since(a.found.report.StartedAt), false)
	_ = a.keepReport(ctx)
}

// keepReport keeps the report alone: the verified state stays as it is.
func (a *auditor) keepReport(ctx context.Context) error {
	return pgx.BeginFunc(ctx, a.conns.work, func(tx pgx.Tx) error {
		return saveReport(ctx, tx, a.config.Pool.Name(), nil, &a.found.report)
	})
}

// acquire takes the lease, or fails with ErrBusy.
func acquire(ctx context.Context, config Config) (*events.Lease, error) {
	short, cancel := context.WithTimeout(ctx, config.LockWait)
	defer cancel()
	lease, err := events.AcquireLease(short, config.Postgres, "audit/"+config.Pool.Name())
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		return nil, fmt.Errorf("%w (or Postgres does not answer); it was waited for %s", ErrAuditRunning, config.LockWait)
	}
	return lease, err
}

// connect opens the other sessions.
func (a *auditor) connect(ctx context.Context) (closeAll func(), err error) {
	var opened []*pgx.Conn
	closeAll = func() {
		for _, conn := range opened {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = conn.Close(ctx) // nothing depends on a polite goodbye
			cancel()
		}
	}
	for _, conn := range []**pgx.Conn{&a.conns.journal, &a.conns.ended, &a.conns.holds, &a.conns.orders, &a.conns.hours, &a.conns.stream} {
		if *conn, err = pgx.ConnectConfig(ctx, a.config.Postgres.Copy()); err != nil {
			closeAll()
			return nil, fmt.Errorf("connect to Postgres: %w", err)
		}
		opened = append(opened, *conn)
	}
	return closeAll, nil
}

// begin finds out where the audit goes from and to.
func (a *auditor) begin(ctx context.Context, full bool) (p position, err error) {
	pool := a.config.Pool.Name()
	if p, err = readBookmark(ctx, a.conns.work, pool); err != nil {
		return p, err
	}
	verified := p.seq
	if full || p.seq == 0 {
		full, p = true, position{}
	}
	a.full, a.found.report.Full = full, full
	if a.end, err = events.ReadCheckpoint(ctx, a.conns.work, events.JournalCheckpoint, pool); err != nil {
		return p, err
	}
	// A detached part ends the audit before it begins; any other hole is a difference, and found by the fold.
	whole := events.CheckWhole(ctx, a.conns.work, pool, p.seq)
	if errors.Is(whole, events.ErrDetached) || whole != nil && !errors.Is(whole, events.ErrHole) {
		return p, fmt.Errorf("audit from seq %d: %w", p.seq, whole)
	}
	a.found.report.From = p.seq
	if a.end < verified {
		a.found.differs(Difference{Store: StoreJournal, Kind: KindBehind, Key: pool, Seq: a.end,
			Expected: fmt.Sprintf("a journal that ends at seq %d or later, as far as it was verified", verified), Found: fmt.Sprintf("it ends at seq %d", a.end)})
		a.end = max(a.end, p.seq)
	}
	a.found.report.Seq = a.end
	a.expected = newExpected(full, a.found.differs)
	a.expected.seq, a.expected.totals.live = p.seq, p.liveHolds
	a.scan = &journalScan{conn: a.conns.journal, pool: pool, wait: a.config.Wait, fold: a.expected}
	return p, nil
}

// run compares everything, and returns what will be verified if nothing was found.
func (a *auditor) run(ctx context.Context, p position) (*verifiedState, error) {
	if err := a.awaitProjections(ctx); err != nil {
		return nil, err
	}
	if !a.full {
		pool, db := a.config.Pool.Name(), a.conns.work
		if err := errors.Join(loadRechecks(ctx, db, pool, a.expected), loadHours(ctx, db, pool, a.expected.hours, p.hourFloor)); err != nil {
			return nil, err
		}
	}
	if err := a.foldToEnd(ctx, &p); err != nil {
		return nil, err
	}
	if !a.full {
		if err := loadRound(ctx, a.conns.work, a.config.Pool.Name(), a.expected, &p); err != nil {
			return nil, err
		}
	}
	verified := stateToVerify(a.expected, a.full, p)
	a.expected.settled = true
	if err := a.compareLive(ctx); err != nil {
		return nil, err
	}
	for _, table := range tables {
		if err := a.compareLiveRows(ctx, table); err != nil {
			return nil, err
		}
	}
	if a.full {
		if err := a.compareStrangers(ctx); err != nil {
			return nil, err
		}
	}
	return verified, nil
}

// foldToEnd folds the journal up to the audit's end. Holds that end on the way are compared at once, and forgotten, by
// three others side by side; a fourth compares the stream. So the memory that an audit takes does not grow with history.
func (a *auditor) foldToEnd(ctx context.Context, p *position) error {
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan []journalEvent, 2)
	group.Go(func() error { return readAhead(ctx, a.conns.journal, a.config.Pool.Name(), p.seq, a.end, pages) })
	group.Go(func() (err error) {
		p.streamID, err = a.compareStream(ctx, a.conns.stream, p.streamID)
		return err
	})
	ended := a.endedComparers(ctx, group)
	group.Go(func() error {
		defer func() {
			for _, c := range ended {
				close(c)
			}
		}()
		for page := range pages {
			if !a.full {
				if err := loadPrior(ctx, a.conns.work, a.config.Pool.Name(), a.expected, page); err != nil {
					return err
				}
			}
			for i := range page {
				a.expected.apply(&page[i])
			}
			a.found.compared(func(c *Compared) { c.Events += int64(len(page)) })
			if err := errors.Join(a.compareOver(ctx), a.handOverEnded(ctx, ended)); err != nil {
				return err
			}
		}
		return a.handOverEnded(ctx, ended) // what was to be looked at again, where there were no events
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if a.expected.seq < a.end {
		a.found.differs(Difference{Store: StoreJournal, Kind: KindHole, Key: fmt.Sprintf("seq %d", a.expected.seq+1), Seq: a.expected.seq,
			Expected: fmt.Sprintf("events up to %d, where its checkpoint stands", a.end), Found: fmt.Sprintf("the last event is %d", a.expected.seq)})
		a.expected.seq = a.end
	}
	return nil
}

// endedComparers starts what compares ended holds with Redis and with the two tables that have a row for each.
func (a *auditor) endedComparers(ctx context.Context, group *errgroup.Group) []chan []*expectedHold {
	comparers := []func([]*expectedHold) error{func(holds []*expectedHold) error { return a.compareEnded(ctx, holds) }}
	for table, conn := range map[string]*pgx.Conn{tableHolds: a.conns.holds, tableOrders: a.conns.orders} {
		if a.comparable[table] {
			comparers = append(comparers, func(holds []*expectedHold) error { return a.compareEndedRows(ctx, conn, table, holds) })
		}
	}
	channels := make([]chan []*expectedHold, len(comparers))
	for i, compare := range comparers {
		in := make(chan []*expectedHold, 2)
		channels[i] = in
		group.Go(func() error {
			for holds := range in {
				if err := compare(holds); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return channels
}

func (a *auditor) handOverEnded(ctx context.Context, comparers []chan []*expectedHold) error {
	holds := a.expected.ended
	a.expected.ended = nil
	if len(holds) == 0 {
		return nil
	}
	a.found.compared(func(c *Compared) { c.Holds += int64(len(holds)) })
	for _, c := range comparers {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c <- holds:
		}
	}
	return nil
}

// finish concludes the report, and keeps it, with the new verified state if nothing stands against that.
func (a *auditor) finish(ctx context.Context, verified *verifiedState, took time.Duration) (*Report, error) {
	report, again := &a.found.report, a.found.again
	if a.expected.unreadable > 0 {
		a.found.incomplete("%d events cannot be decoded by this build, and what differs may come of that; the first: %s", a.expected.unreadable, a.expected.firstFault)
	}
	report.conclude(took, a.expected.unreadable > 0)
	agreed := report.Verdict == VerdictClean || report.Verdict == VerdictParked
	if agreed && len(again.holds)+len(again.skus) <= recheckMax {
		return report, verified.save(ctx, a.conns.work, a.config.Pool.Name(), again, report)
	}
	return report, a.keepReport(ctx)
}
