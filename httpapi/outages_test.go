package httpapi

import (
	"testing"
	"time"
)

// TestOutagesAreThinnedOut holds that an outage is told at once, then once a second, and that no request goes uncounted.
func TestOutagesAreThinnedOut(t *testing.T) {
	t.Parallel()
	var o failureLog
	now := time.Now()
	for i, want := range []struct {
		code     string
		after    time.Duration
		requests int
		tell     bool
	}{
		{"NOT_READY", 0, 1, true},
		{"NOT_READY", time.Millisecond, 0, false},
		{"UNAVAILABLE", 0, 1, true},
		{"NOT_READY", 0, 0, false},
		{"NOT_READY", time.Second, 3, true},
		{"NOT_READY", 2 * time.Second, 1, true},
	} {
		now = now.Add(want.after)
		if requests, tell := o.count(want.code, now); requests != want.requests || tell != want.tell {
			t.Errorf("request %d: got %d, %t, want %d, %t", i, requests, tell, want.requests, want.tell)
		}
	}
}
