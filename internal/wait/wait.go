// Package wait has waits that end early when a context ends, or after a limit.
package wait

import (
	"context"
	"fmt"
	"time"
)

// For waits for d. It returns ctx's error as soon as ctx ends, and nil otherwise.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// AtMost calls do in a goroutine and returns its error. If do takes longer than limit,
// AtMost returns an error and leaves the goroutine running.
func AtMost(limit time.Duration, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("not done within %s", limit)
	}
}
