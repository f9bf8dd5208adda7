package rebuild

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/projections"
)

const (
	// pauseMax bounds one wait, so that a rebuild ends however busy the live workers are.
	pauseMax = 500 * time.Millisecond
	// stalledAfter is how long the rebuild gives way to a live worker that has events to
	// apply but does not move its checkpoint.
	stalledAfter = 5 * time.Second
)

// throttle pauses the replay while live workers lag. Its methods may be called
// concurrently.
type throttle struct {
	mu      sync.Mutex
	resumed chan struct{} // resume closes it; nil unless paused
}

// pause makes wait block until resume is called.
func (t *throttle) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resumed == nil {
		t.resumed = make(chan struct{})
	}
}

// resume ends a pause, if there is one.
func (t *throttle) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resumed != nil {
		close(t.resumed)
		t.resumed = nil
	}
}

func (t *throttle) paused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resumed != nil
}

// wait returns when no pause is in force, or after pauseMax. It fails if ctx ends first.
func (t *throttle) wait(ctx context.Context) error {
	t.mu.Lock()
	resumed := t.resumed
	t.mu.Unlock()
	if resumed == nil {
		return ctx.Err()
	}
	timer := time.NewTimer(pauseMax)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-resumed:
	case <-timer.C:
	}
	return ctx.Err()
}

// liveWorkers remembers the position of each live worker, by the name of its projection,
// to tell a slow worker from a stalled one.
type liveWorkers map[string]workerPosition

// workerPosition is the checkpoint of a worker, and when the worker was first seen there.
type workerPosition struct {
	checkpoint int64
	since      time.Time
}

// lag returns the longest lag of the journal and of the watched live workers. It ignores
// a stalled worker: one that does not run, or whose handler fails, gains nothing from a
// pause.
func (w liveWorkers) lag(ctx context.Context, conn *pgx.Conn, config Config) (time.Duration, error) {
	lags, err := projections.ReadLag(ctx, conn, config.Pool.Name(), config.Watched...)
	if err != nil {
		return 0, err
	}
	longest := time.Duration(0)
	now := time.Now()
	for _, lag := range lags {
		seen, known := w[lag.Projection]
		moves := !known || seen.checkpoint != lag.Checkpoint || lag.Events == 0
		if moves {
			w[lag.Projection] = workerPosition{checkpoint: lag.Checkpoint, since: now}
		} else if now.Sub(seen.since) > stalledAfter {
			continue
		}
		longest = max(longest, lag.Age)
	}
	// The journal's own lag is the delay with which it recorded its newest event, if it
	// did so within the last second.
	const query = `
		SELECT coalesce((SELECT extract(epoch FROM recorded_at - at)::float8
		    FROM (SELECT at, recorded_at FROM events WHERE pool = $1 ORDER BY seq DESC LIMIT 1) AS newest
		    WHERE recorded_at > now() - interval '1 s'), 0)`
	var seconds float64
	if err := conn.QueryRow(ctx, query, config.Pool.Name()).Scan(&seconds); err != nil {
		return 0, fmt.Errorf("read the lag of the journal: %w", err)
	}
	return max(longest, time.Duration(seconds*float64(time.Second))), nil
}
