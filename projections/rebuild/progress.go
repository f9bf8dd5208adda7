package rebuild

import (
	"sync"
	"time"
)

// Step is a step of a rebuild.
type Step string

// The steps of a rebuild, in order. The words are stored in the table rebuilds.
const (
	StepReplay  Step = "replaying"
	StepCompare Step = "comparing"
	StepSwap    Step = "exchanging"
	StepDone    Step = "done"
)

// Progress is the progress of a rebuild.
type Progress struct {
	Run   int64
	Step  Step
	Done  int64 // events that every projection of the run has applied
	Total int64 // events to apply
	// Rate is the average number of events applied per second; 0 while it is unknown.
	Rate float64
	// ETA is the time that the rest of the replay takes at this rate; 0 while it is
	// unknown, and after the replay.
	ETA    time.Duration
	Paused bool // because live workers lag
	// WaitsFor is the session whose lock the swap waits for; nil if it waits for none.
	WaitsFor *LockHolder
}

// progress returns the progress of the job now.
func (j *Job) progress() Progress {
	p := j.tracker.current()
	p.Paused = j.throttle.paused()
	return p
}

// tracker records the progress of a rebuild. Its methods may be called concurrently.
type tracker struct {
	mu          sync.Mutex
	progress    Progress
	started     time.Time
	replayEnded time.Time
}

func newTracker() *tracker {
	return &tracker{progress: Progress{Step: StepReplay}, started: time.Now()}
}

func (t *tracker) setRun(id int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress.Run = id
}

// setStep records that a step begins.
func (t *tracker) setStep(step Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.progress.Step == StepReplay && step != StepReplay {
		t.replayEnded = time.Now()
	}
	t.progress.Step = step
	if step == StepDone {
		// Each projection ends at its own live checkpoint, which may be below Total.
		t.progress.Done = t.progress.Total
	}
}

// raiseTotal raises Total to total; it never lowers it.
func (t *tracker) raiseTotal(total int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress.Total = max(t.progress.Total, total)
}

// raiseDone raises Done to done, and Total to at least Done; it never lowers them.
func (t *tracker) raiseDone(done int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress.Done = max(t.progress.Done, done)
	t.progress.Total = max(t.progress.Total, t.progress.Done)
}

// setWaitsFor records the session whose lock the swap waits for, or nil.
func (t *tracker) setWaitsFor(holder *LockHolder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.progress.WaitsFor = holder
}

// current returns the progress now, with its rate and ETA.
func (t *tracker) current() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	until := t.replayEnded
	if until.IsZero() {
		until = time.Now()
	}
	p := t.progress
	p.Rate, p.ETA = rateAndETA(p.Step, p.Done, p.Total, until.Sub(t.started))
	return p
}

// rateAndETA returns the events applied per second in the elapsed time, and the time that
// the rest of the replay takes at that rate. Each is 0 if it is unknown.
func rateAndETA(step Step, done, total int64, elapsed time.Duration) (rate float64, eta time.Duration) {
	if done <= 0 || elapsed <= 0 {
		return 0, 0
	}
	rate = float64(done) / elapsed.Seconds()
	if step == StepReplay {
		eta = time.Duration(float64(total-done) / rate * float64(time.Second))
	}
	return rate, eta
}
