package wait

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestFor holds that the time passes, and that nobody waits for it who is told to stop.
func TestFor(t *testing.T) {
	t.Parallel()
	began := time.Now()
	if err := For(t.Context(), 20*time.Millisecond); err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("got %v after %s, want nil after 20 ms", err, time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := For(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

// TestAtMost holds that what is done in time gives its error, and that nobody waits for what is not.
func TestAtMost(t *testing.T) {
	t.Parallel()
	fault := errors.New("no")
	if err := AtMost(time.Minute, func() error { return fault }); !errors.Is(err, fault) {
		t.Errorf("got %v, want the error of what was done", err)
	}
	end := make(chan struct{})
	defer close(end)
	if err := AtMost(time.Millisecond, func() error { <-end; return nil }); err == nil {
		t.Error("it waited")
	}
}
