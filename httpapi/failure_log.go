package httpapi

import (
	"sync"
	"time"
)

// failureLog limits the log entries about requests answered with 503: one per second for
// each problem code, with the number of requests that failed since the entry before.
// Without it, an outage would log every request of a crowd.
type failureLog struct {
	mu     sync.Mutex
	byCode map[string]*failures
}

// failures counts the failed requests of one problem code.
type failures struct {
	lastLogged time.Time
	unlogged   int // requests since lastLogged
}

const failureLogInterval = time.Second

// count adds one failed request. It reports whether to log now, and how many requests
// that log entry stands for.
func (l *failureLog) count(code string, now time.Time) (requests int, logNow bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.byCode[code]
	if f == nil {
		if l.byCode == nil {
			l.byCode = map[string]*failures{}
		}
		f = &failures{}
		l.byCode[code] = f
	}
	f.unlogged++
	if now.Sub(f.lastLogged) < failureLogInterval {
		return 0, false
	}
	requests = f.unlogged
	f.lastLogged = now
	f.unlogged = 0
	return requests, true
}
