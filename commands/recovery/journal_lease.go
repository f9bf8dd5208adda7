package recovery

import (
	"context"
	"errors"
	"time"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/worker"
)

// journalHold is the journal's lease while a restore has it. While it is held, nothing is
// read from the stream and nothing is appended to the journal.
type journalHold struct {
	lease *worker.Lease // nil if the journal's worker did not give it up in time
	stop  context.CancelFunc
	ended chan struct{}
}

// holdJournal takes the journal's lease. The journal's worker first appends what it has
// read, because Redis may have lost those events after it acknowledged them to clients.
//
// It waits for worker.StepTimeout at most. By then a worker has finished its batch, or
// lost its session: a suspended process keeps it for worker.AbsenceMax. If the worker
// still has the lease, the raised epoch refuses its batch.
func (r *Recovery) holdJournal(ctx context.Context) (*journalHold, error) {
	lease, err := worker.RequestLease(ctx, r.postgres, journal.LeaseName(r.pool), worker.StepTimeout)
	hold := &journalHold{ended: make(chan struct{})}
	ctx, hold.stop = context.WithCancel(ctx)
	if err != nil {
		close(hold.ended)
		if !errors.Is(err, worker.ErrLeased) {
			hold.stop()
			return nil, err
		}
		r.log.Warn("the journal's worker did not give up its lease; events that it has read, and not yet journaled, are lost if Redis has lost them",
			"pool", r.pool.Name(), "waited", worker.StepTimeout)
		return hold, nil
	}
	hold.lease = lease
	go hold.keep(ctx)
	return hold, nil
}

// keep keeps the session of the lease from being idle for too long. A process that is
// suspended loses the lease, so that the journal can go on.
func (h *journalHold) keep(ctx context.Context) {
	defer close(h.ended)
	pings := time.NewTicker(worker.AbsenceMax / 5)
	defer pings.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pings.C:
			_ = h.lease.Conn.Ping(ctx) // if the lease is lost, the epoch refuses what is appended
		}
	}
}

// release gives the lease back.
func (h *journalHold) release() {
	h.stop()
	<-h.ended
	if h.lease != nil {
		h.lease.Release()
	}
}
