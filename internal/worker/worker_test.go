package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// TestLastingFailureIsRetriedSoonAndLoggedOnce checks that a worker whose runs fail again
// and again never waits for long, so that it goes on soon after a failover, and that it
// logs a failure when it changes.
func TestLastingFailureIsRetriedSoonAndLoggedOnce(t *testing.T) {
	t.Parallel()
	if pauseMax > time.Second {
		t.Errorf("longest pause: got %s, want 1s at most", pauseMax)
	}
	var log strings.Builder
	w := New("x", slog.New(slog.NewTextHandler(&log, nil)))
	failures := []string{"refused", "refused", "refused", "loading", "loading"}
	ended := make(chan struct{})
	_, err := w.Start(t.Context(), func(ctx context.Context, _ chan<- *message.Message) error {
		if len(failures) == 0 {
			close(ended)
			<-ctx.Done()
			return ctx.Err()
		}
		failure := failures[0]
		failures = failures[1:]
		return errors.New(failure)
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 2 {
		t.Errorf("log: got %d warnings, want 2:\n%s", got, log.String())
	}
}

// TestHandedOverLeaseIsNoFailure checks that a worker that gave up its lease on request
// begins again without a warning.
func TestHandedOverLeaseIsNoFailure(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	w := New("x", slog.New(slog.NewTextHandler(&log, nil)))
	runs := 0
	ended := make(chan struct{})
	_, err := w.Start(t.Context(), func(ctx context.Context, _ chan<- *message.Message) error {
		if runs++; runs == 1 {
			return ErrHandedOver
		}
		close(ended)
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	if status := w.Status(); status.Error != "" {
		t.Errorf("status: got error %q, want none", status.Error)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if log.String() != "" {
		t.Errorf("log: got %q, want nothing", log.String())
	}
}
