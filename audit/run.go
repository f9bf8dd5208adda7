package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/worker"
)

// Config names the pool to audit and the stores to compare.
type Config struct {
	// Postgres is where an audit connects. It opens its own connections, so that it takes
	// none from the API's pool.
	Postgres *pgx.ConnConfig
	// Redis is the caller's client; an audit does not close it.
	Redis redis.UniversalClient
	Pool  events.Pool
	// Wait is how long the journal, the projections and Redis may take to reach a seq
	// that the audit needs; 10 s unless set. A store that does not reach it makes the
	// audit incomplete.
	Wait time.Duration
	// LockWait is how long to wait for another audit of the pool to end; 5 s unless set.
	LockWait time.Duration
}

// ErrAuditRunning is returned if another audit of the pool is running, or if Postgres
// does not answer.
var ErrAuditRunning = errors.New("another audit is running")

// auditor is one running audit.
type auditor struct {
	config Config
	pool   string // the pool's name
	full   bool
	end    int64 // the audit's end: the journal's seq when the audit began
	found  *findings
	conns  conns

	expected   *expected
	scan       *journalScan
	comparable map[string]bool // the read tables whose projection has reached the audit's end

	redisUnusable atomic.Bool // reported; do not wait for Redis again
	journalStuck  atomic.Bool // reported; do not wait for the journal again
}

// conns are the audit's sessions with Postgres, one for each thing that runs
// concurrently.
type conns struct {
	work    *pgx.Conn            // holds the lease; for everything that runs alone
	journal *pgx.Conn            // reads the journal
	ended   *pgx.Conn            // reads dead letters of ended holds
	hours   *pgx.Conn            // reads complete hours
	stream  *pgx.Conn            // reads the events of stream entries
	tables  map[string]*pgx.Conn // reads rows of ended holds, by read table
}

// Run audits a pool. It starts at the last verified seq, or at seq 0 if full is set or no
// audit has verified anything. The report has the differences, and is saved for Last; an
// error means that there is no report. Only one audit of a pool runs at a time: a second
// one waits for config.LockWait, and then returns ErrAuditRunning.
func Run(ctx context.Context, config Config, full bool) (*Report, error) {
	if config.Wait == 0 {
		config.Wait = 10 * time.Second
	}
	if config.LockWait == 0 {
		config.LockWait = 5 * time.Second
	}
	lease, err := acquireLease(ctx, config)
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	a := &auditor{
		config:     config,
		pool:       config.Pool.Name(),
		full:       full,
		found:      newFindings(config.Pool.Name(), full),
		conns:      conns{work: lease.Conn, tables: map[string]*pgx.Conn{}},
		comparable: map[string]bool{},
	}
	report, err := a.run(ctx)
	if err != nil && ctx.Err() == nil {
		a.saveFailure(ctx, err)
	}
	return report, err
}

// acquireLease takes the lease of the pool's audits. It returns ErrAuditRunning if that
// takes longer than LockWait.
func acquireLease(ctx context.Context, config Config) (*worker.Lease, error) {
	short, cancel := context.WithTimeout(ctx, config.LockWait)
	defer cancel()
	lease, err := worker.AcquireLease(short, config.Postgres, "audit/"+config.Pool.Name())
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		return nil, fmt.Errorf("%w (or Postgres does not answer); gave up after %s",
			ErrAuditRunning, config.LockWait)
	}
	return lease, err
}

// run performs the steps of an audit:
//
//  1. Decide where it starts and ends.
//  2. Wait for the projections to reach the end.
//  3. Apply the journal's events up to the end; meanwhile compare the stream, the holds
//     that end on the way, and the hours that become complete.
//  4. Copy the expected state at the end. Step 7 saves the copy.
//  5. Compare the keys that are still tracked, with Redis and with each read table.
//  6. In a full audit, search Redis for keys that no event accounts for.
//  7. Set the verdict and save the report. If all stores agree, save the copy of step 4
//     as the verified state.
func (a *auditor) run(ctx context.Context) (*Report, error) {
	began := time.Now()
	closeConns, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer closeConns()
	start, err := a.chooseRange(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.awaitProjections(ctx); err != nil {
		return nil, err
	}
	next, err := a.applyToEnd(ctx, start)
	if err != nil {
		return nil, err
	}
	verified := copyState(a.expected, next)
	a.expected.pastEnd = true
	if err := a.compareRedis(ctx); err != nil {
		return nil, err
	}
	for _, table := range readTables {
		if err := a.compareTable(ctx, table); err != nil {
			return nil, err
		}
	}
	if a.full {
		if err := a.compareForeignKeys(ctx); err != nil {
			return nil, err
		}
	}
	return a.finish(ctx, verified, time.Since(began))
}

// connect opens the sessions beside that of the lease.
func (a *auditor) connect(ctx context.Context) (closeAll func(), err error) {
	var opened []*pgx.Conn
	closeAll = func() {
		for _, conn := range opened {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = conn.Close(ctx) // Postgres ends the session in any case
			cancel()
		}
	}
	open := func() (conn *pgx.Conn) {
		if err != nil {
			return nil
		}
		if conn, err = pgx.ConnectConfig(ctx, a.config.Postgres.Copy()); err == nil {
			opened = append(opened, conn)
		}
		return conn
	}
	a.conns.journal = open()
	a.conns.ended = open()
	a.conns.hours = open()
	a.conns.stream = open()
	for _, table := range readTables {
		if table.compareEnded != nil {
			a.conns.tables[table.name] = open()
		}
	}
	if err != nil {
		closeAll()
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return closeAll, nil
}

// chooseRange sets the audit's end, and returns the position where it starts.
func (a *auditor) chooseRange(ctx context.Context) (start position, err error) {
	if start, err = readPosition(ctx, a.conns.work, a.pool); err != nil {
		return start, err
	}
	verifiedSeq := start.seq
	if verifiedSeq == 0 {
		a.full = true
	}
	if a.full {
		start = position{}
	}
	a.found.report.Full = a.full
	if a.end, err = worker.ReadCheckpoint(ctx, a.conns.work, journal.CheckpointName, a.pool); err != nil {
		return start, err
	}
	// A journal with a detached partition cannot be audited from here. A hole of any
	// other cause is a difference, which the expected state reports when it reaches it.
	err = journal.CheckComplete(ctx, a.conns.work, a.pool, start.seq)
	if errors.Is(err, journal.ErrDetached) || err != nil && !errors.Is(err, journal.ErrHole) {
		return start, fmt.Errorf("audit from seq %d: %w", start.seq, err)
	}
	if a.end < verifiedSeq {
		a.found.addDifference(Difference{
			Store:    StoreJournal,
			Kind:     KindBehind,
			Key:      a.pool,
			Expected: fmt.Sprintf("a journal that ends at the verified seq %d or later", verifiedSeq),
			Found:    fmt.Sprintf("it ends at seq %d", a.end),
			Seq:      a.end,
		})
		a.end = max(a.end, start.seq)
	}
	a.found.report.From = start.seq
	a.found.report.Seq = a.end
	a.expected = newExpected(a.full, a.found.addDifference)
	a.expected.seq = start.seq
	a.expected.totals.live = start.liveHolds
	a.scan = &journalScan{
		conn:     a.conns.journal,
		pool:     a.pool,
		wait:     a.config.Wait,
		expected: a.expected,
	}
	return start, nil
}

// finish sets the verdict and saves the report. If the verdict is clean or parked, it
// also saves the verified state.
func (a *auditor) finish(ctx context.Context, verified *verifiedState, took time.Duration) (*Report, error) {
	report := &a.found.report
	recheck := a.found.recheck
	unreadable := a.expected.unreadable > 0
	if unreadable {
		a.found.addIncomplete(
			"this build cannot decode %d events, so the differences may be false; the first is at %s",
			a.expected.unreadable, a.expected.firstUnreadable,
		)
	}
	report.conclude(took, unreadable)
	agreed := report.Verdict == VerdictClean || report.Verdict == VerdictParked
	if agreed && len(recheck.holds)+len(recheck.skus) <= recheckMax {
		return report, verified.save(ctx, a.conns.work, a.pool, recheck, report)
	}
	return report, a.saveReportOnly(ctx)
}

// saveFailure saves a report that says why no audit was possible. It ignores an error:
// Postgres may be the reason.
func (a *auditor) saveFailure(ctx context.Context, cause error) {
	a.found.addIncomplete("%v", cause)
	a.found.report.conclude(time.Since(a.found.report.StartedAt), false)
	_ = a.saveReportOnly(ctx)
}

// saveReportOnly saves the report, and leaves the verified state as it is.
func (a *auditor) saveReportOnly(ctx context.Context) error {
	return pgx.BeginFunc(ctx, a.conns.work, func(tx pgx.Tx) error {
		return saveReport(ctx, tx, a.pool, nil, &a.found.report)
	})
}
