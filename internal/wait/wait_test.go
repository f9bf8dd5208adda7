package wait

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestForWaitsUnlessTheContextEnds checks that For waits for the whole duration, and
// returns early if the context ends.
func TestForWaitsUnlessTheContextEnds(t *testing.T) {
	t.Parallel()
	began := time.Now()
	if err := For(t.Context(), 20*time.Millisecond); err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("got %v after %s, want nil after 20 ms", err, time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := For(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// TestAtMostReturnsAtTheLimit checks that AtMost returns the error of a function that
// ends in time, and does not wait longer than the limit for one that does not.
func TestAtMostReturnsAtTheLimit(t *testing.T) {
	t.Parallel()
	fault := errors.New("no")
	if err := AtMost(time.Minute, func() error { return fault }); !errors.Is(err, fault) {
		t.Errorf("got %v, want the function's error", err)
	}
	end := make(chan struct{})
	defer close(end)
	if err := AtMost(time.Millisecond, func() error { <-end; return nil }); err == nil {
		t.Error("got nil for a function that does not end, want an error at the limit")
	}
}
