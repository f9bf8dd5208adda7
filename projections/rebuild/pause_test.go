package rebuild

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/projections"
)

// TestReplayPausesForLiveWork keeps the live lag high while the replay is under way. From
// then on each batch waits for pauseMax. When the lag is gone, the rebuild goes on
// without a pause and succeeds.
func TestReplayPausesForLiveWork(t *testing.T) {
	t.Parallel()
	const paused = 3 // batches that are applied while the lag is high
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 100)...)
	f.project(heldUnits(1))
	// The newest event counts as recorded just now, an hour after it happened.
	f.exec(`UPDATE events SET recorded_at = now() + interval '1 hour' WHERE seq = $1`, f.seq)
	var job *Job
	requirePaused := func(ctx context.Context, want bool) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for job.progress().Paused != want {
			if err := wait.For(ctx, time.Millisecond); err != nil {
				t.Errorf("the replay is paused: got %t, want %t", !want, want)
				return
			}
		}
	}
	var began []time.Time // when each batch was applied
	p := heldUnits(1)
	apply := p.Apply
	p.Apply = func(ctx context.Context, tx pgx.Tx, batch []projections.Event) error {
		switch len(began) {
		case 0:
			requirePaused(ctx, true)
		case paused:
			const endLag = `UPDATE events SET recorded_at = at WHERE seq = $1`
			if _, err := f.db.Exec(ctx, endLag, f.seq); err != nil {
				t.Error(err)
			}
			requirePaused(ctx, false)
		}
		began = append(began, time.Now())
		return apply(ctx, tx, batch)
	}
	config := f.rebuildConfig()
	config.Watched = nil // only the lag of the journal counts
	config.BatchMax = 10
	job, err := Begin(f.ctx, config, p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Run(f.ctx); err != nil {
		t.Fatal(err)
	}
	if len(began) <= paused {
		t.Fatalf("got %d batches, want more than %d", len(began), paused)
	}
	for i := 1; i < paused; i++ {
		if took := began[i].Sub(began[i-1]); took < pauseMax {
			t.Errorf("batch %d, while live work lags: began %s after the one before, want at least %s",
				i, took, pauseMax)
		}
	}
}
