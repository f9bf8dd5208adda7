package recovery

import (
	"sync"
	"time"
)

// RestoreProgress is the progress of a restore of Redis.
type RestoreProgress struct {
	Step  string // one of the steps below, in their order
	Done  int64  // events or keys
	Total int64  // events or keys; 0 if unknown
}

// The steps of a restore, with what they count.
const (
	StepFold    = "fold the journal"     // events
	StepWait    = "wait for the journal" // events
	StepRemove  = "remove old keys"      // keys
	StepWrite   = "write keys"           // keys
	StepPublish = "open the log"         // nothing
)

// EveryStep limits reports: it passes on the first one of each step, and later ones once
// per interval. The returned function may be called from several goroutines; it calls
// report from one at a time.
func EveryStep(interval time.Duration, report func(RestoreProgress)) func(RestoreProgress) {
	var mu sync.Mutex
	var step string
	var last time.Time
	return func(p RestoreProgress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Step == step && time.Since(last) < interval {
			return
		}
		step = p.Step
		last = time.Now()
		report(p)
	}
}
