package httpapi

import (
	"testing"
	"time"
)

// TestFailuresAreLoggedOncePerSecond checks that the first failure of a code is logged at
// once, the later ones once per second, and that every request is counted in some log
// entry.
func TestFailuresAreLoggedOncePerSecond(t *testing.T) {
	t.Parallel()
	var log failureLog
	now := time.Now()
	for i, want := range []struct {
		code     string
		after    time.Duration // since the request before
		requests int
		logNow   bool
	}{
		{"NOT_READY", 0, 1, true},
		{"NOT_READY", time.Millisecond, 0, false},
		{"UNAVAILABLE", 0, 1, true},
		{"NOT_READY", 0, 0, false},
		{"NOT_READY", time.Second, 3, true},
		{"NOT_READY", 2 * time.Second, 1, true},
	} {
		now = now.Add(want.after)
		requests, logNow := log.count(want.code, now)
		if requests != want.requests {
			t.Errorf("request %d: got %d requests to log, want %d", i, requests, want.requests)
		}
		if logNow != want.logNow {
			t.Errorf("request %d: got logNow %t, want %t", i, logNow, want.logNow)
		}
	}
}
