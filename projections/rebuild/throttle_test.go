package rebuild

import (
	"testing"
	"time"

	"github.com/stockstream/stockstream/projections"
)

// TestThrottlePausesReplay checks that wait returns at once without a pause, when a pause
// ends, and after pauseMax at the latest.
func TestThrottlePausesReplay(t *testing.T) {
	t.Parallel()
	j := &Job{tracker: newTracker()}
	timeWait := func() time.Duration {
		start := time.Now()
		if err := j.throttle.wait(t.Context()); err != nil {
			t.Error(err)
		}
		return time.Since(start)
	}
	if took := timeWait(); took > pauseMax/2 {
		t.Errorf("without a pause: waited %s, want less than %s", took, pauseMax/2)
	}
	j.throttle.pause()
	if took := timeWait(); took < pauseMax {
		t.Errorf("in a pause without an end: waited %s, want %s", took, pauseMax)
	}
	if !j.progress().Paused {
		t.Error("in a pause: the progress is not marked as paused")
	}
	time.AfterFunc(50*time.Millisecond, j.throttle.resume)
	if took := timeWait(); took < 50*time.Millisecond || took > pauseMax {
		t.Errorf("in a pause of 50ms: waited %s", took)
	}
	if j.progress().Paused {
		t.Error("after a pause: the progress is still marked as paused")
	}
}

// TestProgressHalfway checks the rate and the ETA of a replay that has done half its
// events.
func TestProgressHalfway(t *testing.T) {
	t.Parallel()
	tracker := newTracker()
	tracker.started = time.Now().Add(-time.Second)
	tracker.raiseTotal(100)
	tracker.raiseDone(50)
	now := tracker.current()
	if now.Done != 50 {
		t.Errorf("got %d events done, want 50", now.Done)
	}
	if now.Total != 100 {
		t.Errorf("got %d events in total, want 100", now.Total)
	}
	if now.Rate <= 0 {
		t.Errorf("got a rate of %f events per second, want more than 0", now.Rate)
	}
	if now.ETA <= 0 {
		t.Errorf("got an ETA of %s, want more than 0", now.ETA)
	}
}

// TestLagIgnoresStalledWorkers checks that the lag counts a slow worker and a slow
// journal, and ignores a worker that has not moved its checkpoint for longer than
// stalledAfter.
func TestLagIgnoresStalledWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.exec(`UPDATE events SET at = now() - interval '1 minute', recorded_at = now() - interval '1 minute'`)
	f.exec(`INSERT INTO checkpoints (projection, pool, seq) VALUES ('holds', 'main', 3)`)
	config := f.rebuildConfig()
	config.Watched = []projections.Projection{projections.Holds()}
	workers := liveWorkers{}
	lag := func() time.Duration {
		t.Helper()
		lag, err := workers.lag(f.ctx, f.db, config)
		if err != nil {
			t.Fatal(err)
		}
		return lag
	}
	if got := lag(); got < time.Minute || got > 2*time.Minute {
		t.Errorf("a worker that is a minute behind: got a lag of %s, want 1 to 2 minutes", got)
	}
	seen := workers["holds"]
	workers["holds"] = workerPosition{seen.checkpoint, seen.since.Add(-2 * stalledAfter)}
	if got := lag(); got != 0 {
		t.Errorf("a stalled worker: got a lag of %s, want 0", got)
	}
	f.exec(`UPDATE checkpoints SET seq = 4 WHERE projection = 'holds'`)
	if got := lag(); got < time.Minute {
		t.Errorf("a worker that moves again: got a lag of %s, want at least a minute", got)
	}
	f.exec(`UPDATE checkpoints SET seq = $1 WHERE projection = 'holds'`, f.seq)
	if got := lag(); got != 0 {
		t.Errorf("a worker at the end of the journal: got a lag of %s, want 0", got)
	}
	f.appendEvents(created("z", 1))
	f.exec(`UPDATE events SET at = now() - interval '3 seconds' WHERE seq = $1`, f.seq)
	f.exec(`UPDATE checkpoints SET seq = $1 WHERE projection = 'holds'`, f.seq)
	if got := lag(); got < 2*time.Second {
		t.Errorf("a journal that took three seconds: got a lag of %s, want at least 2s", got)
	}
}
