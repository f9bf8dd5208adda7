// Package wait lets time pass for those who may be told to stop meanwhile.
package wait

import (
	"context"
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
