package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/projections"
)

// Config configures a rebuild.
type Config struct {
	// Postgres is the connection config of the service. Its search_path finds the live
	// tables.
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	// Watched are the projections whose live workers pause the replay when they lag.
	Watched []projections.Projection
	// AcceptDifferences swaps the new tables in although they differ from the live ones.
	AcceptDifferences bool
	// Accepting is called before the swap with the differences that are accepted, if
	// there are any. It may be nil.
	Accepting func([]TableDifference)
	BatchMax  int              // events in a transaction; default 5,000
	LagMax    time.Duration    // the replay pauses while the live lag is longer; default 200 ms
	Report    func(p Progress) // called about three times a second; may be nil
	Log       *slog.Logger
}

// The errors of a rebuild. Tables that it had not yet swapped are unchanged.
var (
	ErrRebuildRunning = errors.New("another rebuild is running")
	ErrOldTablesKept  = errors.New("the old tables of an earlier rebuild are still kept")
	ErrDependents     = errors.New("other objects depend on the live tables")
	ErrCancelled      = errors.New("the rebuild was cancelled")
	ErrLeaseLost      = errors.New("the rebuild has lost its lease, because its process stood still or its " +
		"connection to Postgres broke; tables that it had not yet swapped are unchanged; start it again")
	ErrOtherPools = errors.New("the read tables have rows of other pools")
)

// leaseName is the lease of a rebuild. One rebuild runs at a time, of one or more
// projections.
const leaseName = "rebuild"

// Job is a rebuild that Begin has accepted. The caller must call Run.
type Job struct {
	config Config
	id     int64
	// lease is held on a session of its own. Never pass that session a context that may
	// be cancelled during the run: pgx closes the connection when a query is cancelled.
	// Postgres ends the session if it stays idle for worker.AbsenceMax; watch uses it
	// three times a second.
	lease    *worker.Lease
	leaseMu  sync.Mutex // held while watch or a swap uses the session of the lease
	sessions sessions
	db       *pgx.Conn    // reads the live checkpoints
	readers  [2]*pgx.Conn // read the journal in turn
	shadows  []*shadow
	tracker  *tracker
	throttle throttle
}

// Result describes the swap of one projection's tables.
type Result struct {
	Projection string `json:"projection"`
	Seq        int64  `json:"seq"`      // the checkpoint of the tables that were swapped in
	Resolved   int64  `json:"resolved"` // parked dead letters that the swap resolved
	Parked     int64  `json:"parked"`   // dead letters that are parked now
}

// Begin takes the lease, creates the shadow tables of each projection, and records the
// run. It fails with ErrRebuildRunning, ErrOldTablesKept or ErrDependents, and with
// journal.ErrDetached or journal.ErrHole if the journal lacks an event between the first
// one and its checkpoint.
func Begin(ctx context.Context, config Config, list ...projections.Projection) (*Job, error) {
	if config.BatchMax == 0 {
		config.BatchMax = 5000
	}
	if config.LagMax == 0 {
		config.LagMax = 200 * time.Millisecond
	}
	if len(list) == 0 {
		return nil, errors.New("name a projection to rebuild")
	}
	lease, err := takeLease(ctx, config)
	if err != nil {
		return nil, err
	}
	j := &Job{
		config:  config,
		lease:   lease,
		tracker: newTracker(),
	}
	begun := false
	defer func() { // after a panic too, which the HTTP server survives
		if !begun {
			j.close(ctx)
		}
	}()
	if err := j.remember(ctx, j.lease.Conn); err != nil {
		return nil, err
	}
	if err := checkJournal(ctx, j.lease.Conn, config.Pool.Name()); err != nil {
		return nil, err
	}
	if err := checkOnlyPool(ctx, j.lease.Conn, config.Pool.Name(), list...); err != nil {
		return nil, err
	}
	for _, p := range list {
		s, err := newShadow(ctx, config, j.lease.Conn, p)
		if err != nil {
			return nil, fmt.Errorf("rebuild %s: %w", p.Name, err)
		}
		j.shadows = append(j.shadows, s) // before open, so that close drops its schema
		if err := s.open(ctx, j); err != nil {
			return nil, fmt.Errorf("rebuild %s: %w", p.Name, err)
		}
	}
	if j.id, err = recordStart(ctx, j.lease.Conn, list, j.sessions.list()); err != nil {
		return nil, err
	}
	j.tracker.setRun(j.id)
	begun = true
	return j, nil
}

// takeLease takes the lease that Begin, DropOld and RestoreOld need, and ends what an
// abandoned rebuild left behind. It fails with ErrRebuildRunning if another session has
// the lease.
func takeLease(ctx context.Context, config Config) (*worker.Lease, error) {
	lease, err := worker.TryWorkerLease(ctx, config.Postgres, leaseName)
	if errors.Is(err, worker.ErrLeased) {
		const advice = "`stockstream projections list` shows its progress, `stockstream projections cancel` ends it"
		return nil, fmt.Errorf("%w; %s", ErrRebuildRunning, advice)
	}
	if err != nil {
		return nil, err
	}
	if _, err := endAbandoned(ctx, lease.Conn, false); err != nil {
		lease.Release()
		return nil, err
	}
	return lease, nil
}

// ID returns the number of the run, which List shows too.
func (j *Job) ID() int64 { return j.id }

// Run replays, compares and swaps. It returns a result for each projection that was
// swapped: all of them, or fewer if it failed between two swaps. It ends early with
// ErrCancelled when ctx ends or Cancel is called, and with ErrLeaseLost if Postgres ended
// the session of its lease.
func (j *Job) Run(ctx context.Context) (results []Result, err error) {
	defer j.close(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	watchCtx, stopWatch := context.WithCancel(ctx)
	watchEnded := make(chan struct{})
	go func() {
		defer close(watchEnded)
		if err := worker.CatchPanic(func() error { return j.watch(watchCtx) })(); err != nil {
			cancel(err)
		}
	}()
	var differences []TableDifference
	err = worker.CatchPanic(func() (err error) {
		if differences, err = j.prepare(ctx); err == nil {
			results, err = j.swapAll(ctx)
		}
		return err
	})()
	stopWatch()
	<-watchEnded
	if err != nil {
		err = j.explain(ctx, err)
	}
	cancel(nil)
	j.recordEnd(ctx, differences, err)
	return results, err
}

// explain returns the reason for the error that ended a rebuild: its context ended, it
// was cancelled, it lost its lease, or else the error itself. It logs a panic's stack.
func (j *Job) explain(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, context.Canceled):
		err = fmt.Errorf("%w: %w", ErrCancelled, cause)
	case cause != nil:
		err = cause
	}
	if !errors.Is(err, ErrCancelled) && !errors.Is(err, ErrLeaseLost) {
		if why := j.record(ctx, j.progress()); why != nil {
			err = fmt.Errorf("%w (%w)", why, err)
		}
	}
	if panicked := (*worker.PanicError)(nil); errors.As(err, &panicked) {
		j.config.Log.Error("a rebuild panicked",
			"rebuild", j.id, "panic", panicked.Value, "stack", panicked.Stack)
	}
	return err
}

// prepare replays until the shadow tables are close to the live ones, and compares the
// two. It fails with a DifferencesError if they differ and AcceptDifferences is not set.
func (j *Job) prepare(ctx context.Context) ([]TableDifference, error) {
	for _, conn := range []**pgx.Conn{&j.db, &j.readers[0], &j.readers[1]} {
		var err error
		if *conn, err = j.connect(ctx, j.config.Postgres); err != nil {
			return nil, err
		}
	}
	if err := j.catchUp(ctx, j.shadows...); err != nil {
		return nil, err
	}
	j.tracker.setStep(StepCompare)
	differences, err := j.compare(ctx)
	if err != nil {
		return nil, err
	}
	if len(differences) > 0 && !j.config.AcceptDifferences {
		return differences, &DifferencesError{Differences: differences}
	}
	if len(differences) > 0 && j.config.Accepting != nil {
		j.config.Accepting(differences)
	}
	for _, s := range j.shadows {
		if err := s.analyse(ctx); err != nil {
			return differences, err
		}
	}
	return differences, nil
}

// close drops the shadow schemas that were not swapped in, and releases the lease. The
// next rebuild drops the schemas that close could not drop.
func (j *Job) close(ctx context.Context) {
	defer j.lease.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	for _, conn := range []*pgx.Conn{j.db, j.readers[0], j.readers[1]} {
		if conn != nil {
			_ = conn.Close(ctx) // it was used for reading only
		}
	}
	for _, s := range j.shadows {
		s.close(ctx)
		if err := s.drop(ctx, j.lease.Conn); err != nil {
			j.config.Log.Warn("cannot drop the shadow tables; the next rebuild drops them",
				"projection", s.Name, "error", err)
		}
	}
}

// cleanUpTimeout bounds the clean-up and the record of the end, which run after ctx has
// ended.
const cleanUpTimeout = 10 * time.Second
