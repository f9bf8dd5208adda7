package rebuild

import (
	"context"
	"sync"
	"time"
)

// Step is what a rebuild is doing.
type Step string

// The steps of a rebuild, in order.
const (
	StepReplay   Step = "replaying"
	StepCompare  Step = "comparing"
	StepSwap Step = "exchanging"
	StepDone     Step = "done"
)

// Progress says how far a rebuild has come.
type Progress struct {
	Run   int64
	Step  Step
	Done  int64 // events that every projection of the run has applied
	Total int64 // events that there are to apply
	// Rate is in events a second since the beginning; 0 while it cannot be told.
	Rate float64
	// ETA is how long the replay will take yet at this rate; 0 while it cannot be told, and after it.
	ETA    time.Duration
	Paused bool // to give way to the live lines
}

// pace keeps a rebuild's progress, and slows it down. It may be used from anywhere.
type pace struct {
	mu     sync.Mutex
	now    Progress
	began  time.Time
	ended  time.Time // of the replay
	resume chan struct{}
}

func newPace() *pace { return &pace{now: Progress{Step: StepReplay}, began: time.Now()} }

func (p *pace) step(step Step) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now.Step == StepReplay && step != StepReplay {
		p.ended = time.Now()
	}
	p.now.Step = step
	if step == StepDone { // a projection whose live line stands still is done where that stands
		p.now.Done = p.now.Total
	}
}

func (p *pace) aim(total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Total = max(p.now.Total, total)
}

func (p *pace) came(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Done = max(p.now.Done, done)
	p.now.Total = max(p.now.Total, p.now.Done)
}

func (p *pace) progress() Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, until := p.now, time.Now()
	if !p.ended.IsZero() {
		until = p.ended
	}
	now.Rate, now.ETA = rateAndETA(now.Step, now.Done, now.Total, until.Sub(p.began))
	now.Paused = p.resume != nil
	return now
}

// rateAndETA returns how many events a second were done since the beginning, and how long the rest of the replay takes at
// that rate; 0 where it cannot be told.
func rateAndETA(step Step, done, total int64, since time.Duration) (rate float64, left time.Duration) {
	if done <= 0 || since <= 0 {
		return 0, 0
	}
	rate = float64(done) / since.Seconds()
	if step == StepReplay {
		left = time.Duration(float64(total-done) / rate * float64(time.Second))
	}
	return rate, left
}

// pause makes wait wait, until it is called again with false.
func (p *pace) pause(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case yes && p.resume == nil:
		p.resume = make(chan struct{})
	case !yes && p.resume != nil:
		close(p.resume)
		p.resume = nil
	}
}

// pauseMax bounds one wait, so that a rebuild comes to its end however busy the live lines are.
const pauseMax = 500 * time.Millisecond

// wait returns when there is no pause any more, or after pauseMax.
func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	resume := p.resume
	p.mu.Unlock()
	if resume == nil {
		return ctx.Err()
	}
	timer := time.NewTimer(pauseMax)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-resume:
	case <-timer.C:
	}
	return ctx.Err()
}
