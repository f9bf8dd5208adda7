package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// Config says what to rebuild with.
type Config struct {
	// Postgres is how the service connects; its search_path says where the live tables are.
	Postgres *pgx.ConnConfig
	Pool     events.Pool
	// Watched are the projections to whose live lines a rebuild gives way.
	Watched []projections.Projection
	// AcceptDifferences puts the new tables in place although they differ from the old ones.
	AcceptDifferences bool
	Accepting         func([]TableDifference) // called before the exchange with what is accepted, if anything; may be nil
	BatchMax          int                // events in a transaction; 5,000 unless set
	LagMax            time.Duration      // the live lag beyond which to pause; 200 ms unless set
	Report            func(p Progress)   // called some four times a second; may be nil
	Log               *slog.Logger
}

// Errors that a rebuild is refused with, or ends with. Nothing that serves was changed.
var (
	ErrRebuildRunning       = errors.New("another rebuild runs")
	ErrOldTablesKept  = errors.New("the tables of an earlier rebuild are still kept")
	ErrDependents = errors.New("something depends on the tables, and would be lost")
	ErrDiffers    = errors.New("the new tables differ from the old ones")
	ErrCancelled  = errors.New("the rebuild was cancelled")
)

// leaseName names the right to rebuild; one rebuild runs at a time, of one projection or several.
const leaseName = "rebuild"

// Job is a rebuild that was accepted. Run must be called.
type Job struct {
	config  Config
	id      int64
	lease   *events.Lease // its session does nothing that is broken off, since that would close it
	db      *pgx.Conn     // for looking at what is live
	readers [2]*pgx.Conn  // of the journal
	shadows []*shadow
	pace    *pace
}

// Result is what a rebuild did to one projection.
type Result struct {
	Projection string `json:"projection"`
	Seq        int64  `json:"seq"`      // where old and new tables were exchanged
	Resolved   int64  `json:"resolved"` // dead letters that the new run applied
	Parked     int64  `json:"parked"`   // dead letters that the new run has
}

// Begin takes the right to rebuild, makes the shadow tables, and records the run. It fails with ErrBusy, ErrOldTables,
// ErrDependents, or events.ErrDetached or ErrHole for a journal that does not reach from the first event to its
// checkpoint.
func Begin(ctx context.Context, config Config, list ...projections.Projection) (_ *Job, err error) {
	if config.BatchMax == 0 {
		config.BatchMax = 5000
	}
	if config.LagMax == 0 {
		config.LagMax = 200 * time.Millisecond
	}
	if len(list) == 0 {
		return nil, errors.New("name a projection to rebuild")
	}
	j := &Job{config: config, pace: newPace()}
	if j.lease, err = takeLease(ctx, config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			j.close(ctx)
		}
	}()
	if err := checkJournal(ctx, j.lease.Conn, config.Pool.Name()); err != nil {
		return nil, err
	}
	for _, p := range list {
		s, err := newShadow(ctx, config, j.lease.Conn, p)
		if err != nil {
			return nil, fmt.Errorf("rebuild %s: %w", p.Name, err)
		}
		j.shadows = append(j.shadows, s)
	}
	if j.id, err = recordStart(ctx, j.lease.Conn, list); err != nil {
		return nil, err
	}
	j.pace.now.Run = j.id
	return j, nil
}

// takeLease takes the right to change which tables serve.
func takeLease(ctx context.Context, config Config) (*events.Lease, error) {
	lease, err := events.TryLease(ctx, config.Postgres, leaseName)
	if errors.Is(err, events.ErrLeased) {
		err = fmt.Errorf("%w; `stockstream projections list` shows how far it is, `stockstream projections cancel` ends it", ErrRebuildRunning)
	}
	return lease, err
}

// ID is the run's number, as List shows it.
func (j *Job) ID() int64 { return j.id }

// Run does the work, and returns what was done to each projection: all of them, or fewer where it failed between one
// exchange and the next. It ends early when ctx ends, or when somebody calls Cancel.
func (j *Job) Run(ctx context.Context) (outcomes []Result, err error) {
	defer j.close(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	watch, stop := context.WithCancel(ctx)
	go func() {
		defer close(watching)
		if err := j.watch(watch); err != nil {
			cancel(err)
		}
	}()
	differences, err := j.prepare(ctx)
	if err == nil {
		outcomes, err = j.swapAll(ctx)
	}
	stop()
	<-watching
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
		if errors.Is(cause, context.Canceled) {
			err = fmt.Errorf("%w: %w", ErrCancelled, cause)
		}
	}
	cancel(nil)
	j.recordEnd(ctx, differences, err)
	return outcomes, err
}

// prepare brings the shadows level with the live tables, and compares the two.
func (j *Job) prepare(ctx context.Context) ([]TableDifference, error) {
	for _, conn := range []**pgx.Conn{&j.db, &j.readers[0], &j.readers[1]} {
		var err error
		if *conn, err = pgx.ConnectConfig(ctx, j.config.Postgres.Copy()); err != nil {
			return nil, fmt.Errorf("connect to Postgres: %w", err)
		}
	}
	if err := j.catchUp(ctx, j.shadows...); err != nil {
		return nil, err
	}
	j.pace.step(StepCompare)
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

// close drops what is not in place, and gives the right to rebuild up. Whatever it cannot drop, the next run does.
func (j *Job) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	for _, conn := range []*pgx.Conn{j.db, j.readers[0], j.readers[1]} {
		if conn != nil {
			_ = conn.Close(ctx) // nothing depends on a polite goodbye
		}
	}
	for _, s := range j.shadows {
		s.close(ctx)
		if err := s.drop(ctx, j.lease.Conn); err != nil {
			j.config.Log.Warn("the shadow tables are left behind", "projection", s.Name, "error", err)
		}
	}
	j.lease.Release()
}

const cleanUpTimeout = 10 * time.Second
