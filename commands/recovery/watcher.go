package recovery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/logonce"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
)

const (
	compareInterval    = time.Second            // between two comparisons while the gate is open
	closedInterval     = 250 * time.Millisecond // between two comparisons while the gate is closed
	compareIntervalMin = 100 * time.Millisecond // between two comparisons, however many commands are refused
	compareTimeout     = 5 * time.Second
	failurePauseMax    = 16 * time.Second // the longest pause after reconciling failed several times
	progressInterval   = 5 * time.Second  // between log lines about one step of a restore
)

// Watch opens the gate as soon as that is safe, and compares Redis with the journal until
// ctx ends. If Redis lost its data, or came back with older data, Watch restores it from
// the journal. If the log forked, Watch closes the gate. In all these states commands are
// answered NOT_READY.
//
// Postgres may be away for a while: a gate that is open stays open without it.
func (r *Recovery) Watch(ctx context.Context) {
	w := &watcher{Recovery: r, journaled: -1}
	defer func() {
		w.withdraw(ctx)
		w.disconnect(ctx)
	}()
	failures := 0
	for ctx.Err() == nil {
		err := w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := closedInterval
		switch {
		case err == nil && r.gate.IsOpen():
			pause = compareInterval
			failures = 0
		case err != nil:
			failures++
			pause = min(closedInterval<<min(failures, 10), failurePauseMax)
		}
		w.pause(ctx, pause)
	}
}

// watcher is the state of one call of Watch.
type watcher struct {
	*Recovery
	conn    *pgx.Conn    // nil until it is needed, and after a failure
	failure logonce.Last // why the gate is closed

	reported bool // Postgres has a report that this process sells

	journaled int64 // the end of the journal when Postgres last answered; -1 if it never did
}

// pause waits for the next comparison. While the gate is open, a command that the script
// refused ends the pause early, but not before compareIntervalMin has passed.
func (w *watcher) pause(ctx context.Context, pause time.Duration) {
	refused := w.gate.Refused()
	if !w.gate.IsOpen() {
		refused = nil
	} else if wait.For(ctx, compareIntervalMin) != nil {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-refused:
	}
}

// look compares Redis with the journal and takes the step that follows. It returns an
// error only if the next look should wait longer than usual.
func (w *watcher) look(ctx context.Context) error {
	reconciled, err := w.lookOnce(ctx)
	if reconciled { // the gate opens after a comparison that finds no difference
		_, err = w.lookOnce(ctx)
	}
	return err
}

// lookOnce compares once, and reports whether it has reconciled Redis with the journal.
func (w *watcher) lookOnce(ctx context.Context) (reconciled bool, err error) {
	c, divergence, err := w.compareNow(ctx)
	w.noticeLag(ctx, c)
	switch {
	case err != nil:
		w.comparisonFailed(ctx, err)
		return false, nil
	case divergence == divergenceNone && c.head.Epoch == c.journal.Epoch && c.journal.DiscardedEpoch == 0:
		if epochRaised := w.sell(ctx, c); !epochRaised {
			return false, nil
		}
	case divergence == divergenceClosed:
		w.gate.Close(errors.New("Redis's log is closed: another process rebuilds or repairs the pool"))
		w.withdraw(ctx)
	case divergence.raisesEpoch():
		w.gate.Close(c.lossReason())
		w.withdraw(ctx)
		if _, err := w.refuseOtherSellers(ctx, w.conn, c.server); err != nil {
			w.comparisonFailed(ctx, err)
			return false, nil
		}
	}
	return w.reconcileNow(ctx)
}

// comparisonFailed closes the gate if the error says that selling is unsafe. If Redis or
// Postgres did not answer, an open gate stays open.
func (w *watcher) comparisonFailed(ctx context.Context, err error) {
	if ctx.Err() != nil { // the caller asked for the end
		return
	}
	unsafe := errors.Is(err, ErrRightsMissing) || errors.Is(err, ErrUnjournaled) ||
		errors.Is(err, ErrSplitBrain) || errors.Is(err, journal.ErrOtherSeller) || needsOperator(err)
	if !unsafe {
		w.disconnect(ctx)
	}
	if unsafe || !w.gate.IsOpen() {
		w.closeGate(ctx, err)
	}
}

// sell reports that this process sells on the server that was compared, and opens the
// gate. If the epoch was raised since the comparison, it leaves the gate as it is and
// returns true.
func (w *watcher) sell(ctx context.Context, c comparison) (epochRaised bool) {
	epoch, err := w.report(ctx, c.server)
	switch {
	case err != nil:
		w.comparisonFailed(ctx, err)
		return false
	case epoch != c.head.Epoch:
		return true
	}
	w.gate.Acknowledge(c.head.Epoch, c.head.Seq)
	w.openGate()
	return false
}

// report tells Postgres that this process sells on a server and how long it remembers
// keys, and returns the pool's epoch.
func (w *watcher) report(ctx context.Context, server stream.Server) (epoch int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	if err := w.promiseMemory(ctx, w.conn); err != nil {
		return 0, err
	}
	epoch, err = journal.ReportSeller(ctx, w.conn, w.pool.Name(), w.process, server.ReplicationID)
	w.reported = w.reported || err == nil
	return epoch, err
}

// withdraw removes the report that this process sells. If Postgres does not answer, the
// report counts as silent after sellerLife.
func (w *watcher) withdraw(ctx context.Context) {
	if !w.reported || w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	w.reported = journal.WithdrawSeller(ctx, w.conn, w.pool.Name(), w.process) != nil
}

// compareNow compares over the watcher's own connection to Postgres.
func (w *watcher) compareNow(ctx context.Context) (comparison, divergence, error) {
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	if w.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, w.postgres.Copy())
		if err != nil {
			return comparison{}, divergenceUnknown, err
		}
		w.conn = conn
	}
	return w.compare(ctx, w.conn)
}

// reconcileNow reconciles, and reports whether it did. It does not if another process is
// reconciling.
func (w *watcher) reconcileNow(ctx context.Context) (reconciled bool, err error) {
	lease, err := worker.TryLease(ctx, w.postgres, w.leaseName())
	if errors.Is(err, worker.ErrLeased) {
		return false, nil
	}
	if err == nil {
		defer lease.Release()
		err = w.reconcile(ctx, lease)
	}
	if err != nil && ctx.Err() == nil {
		w.closeGate(ctx, err)
	}
	return err == nil, err
}

func (w *watcher) openGate() {
	if !w.gate.IsOpen() {
		w.failure.Changes("")
		w.gate.Open()
		w.log.Info("pool open for commands", "pool", w.pool.Name())
	}
}

// closeGate closes the gate and logs the reason, unless it was the last one logged.
func (w *watcher) closeGate(ctx context.Context, reason error) {
	w.gate.Close(reason)
	w.withdraw(ctx)
	if w.failure.Changes(reason.Error()) {
		w.log.Error("pool not open for commands", "pool", w.pool.Name(), "error", reason)
	}
}

func (w *watcher) disconnect(ctx context.Context) {
	if w.conn != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = w.conn.Close(ctx) // a failed close loses nothing
		w.conn = nil
	}
}

// logProgress logs each step of a restore when it begins, and every few seconds while it
// lasts.
func logProgress(log *slog.Logger, pool string) func(RestoreProgress) {
	return EveryStep(progressInterval, func(p RestoreProgress) {
		log.Info("restoring Redis: "+p.Step, "pool", pool, "done", p.Done, "total", p.Total)
	})
}
