package httpapi

import (
	"sync"
	"time"
)

// failureLog thins out the log of requests that failed because something is away: one line a second for each code, with
// how many came to it. A crowd would otherwise write as many lines as it sends requests.
type failureLog struct {
	mu   sync.Mutex
	seen map[string]*outage // by code
}

type outage struct {
	told    time.Time
	failing int // requests since then
}

const outageInterval = time.Second

// count takes one more failed request, and reports whether to log now and how many requests the line stands for.
func (o *failureLog) count(code string, now time.Time) (requests int, tell bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := o.seen[code]
	if seen == nil {
		if o.seen == nil {
			o.seen = map[string]*outage{}
		}
		seen = &outage{}
		o.seen[code] = seen
	}
	seen.failing++
	if now.Sub(seen.told) < outageInterval {
		return 0, false
	}
	requests, seen.told, seen.failing = seen.failing, now, 0
	return requests, true
}
