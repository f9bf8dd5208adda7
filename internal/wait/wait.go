// Package wait lets time pass for those who may be told to stop meanwhile.
package wait

import (
	"context"
	"fmt"
	"time"
)

// For returns nil when d is over, or ctx's error as soon as there is one.
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

// AtMost waits for something to be done, and leaves it to itself when that takes longer than a limit.
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
