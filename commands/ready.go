package commands

import (
	"context"
	"fmt"

	"github.com/stockstream/stockstream/events/stream"
)

// Ready returns nil if a command would be decided now. Otherwise it returns
// ErrUnavailable, ErrNotReady or ErrStale, with the reason in the text. It also asks
// Redis whether it could write.
func (s *Service) Ready(ctx context.Context) error {
	if !s.gate.IsOpen() {
		if reason := s.gate.CloseReason(); reason != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, reason)
		}
		return ErrNotReady
	}
	epoch, seq := s.gate.Acknowledged()
	head, err := stream.ReadHead(ctx, s.redis, s.pool)
	switch {
	case err != nil:
		return s.readError(err, s.pool.MetaKey())
	case !head.Exists:
		return fmt.Errorf("%w: Redis was emptied: it has no log for this pool, which has been in use",
			ErrNotReady)
	case head.Epoch < epoch || head.Epoch == epoch && head.Seq < seq:
		return fmt.Errorf("%w: it ends at seq %d in epoch %d, and had acknowledged seq %d in epoch %d",
			ErrStale, head.Seq, head.Epoch, seq, epoch)
	}
	if err := canWriteScript.Run(ctx, s.redis, nil).Err(); err != nil {
		return decisionError(err)
	}
	return nil
}
