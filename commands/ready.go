package commands

import (
	"context"
	"fmt"
	"slices"

	"github.com/stockstream/stockstream/events/stream"
)

// Ready returns nil if a command would be decided now. Otherwise it returns
// ErrUnavailable, ErrNotReady, ErrOtherServer or ErrStale, with the reason in the text.
// It also asks Redis whether it could write.
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
	case head.Unfinished:
		return fmt.Errorf("%w: Redis refused some writes of a command; it has to be restored from the journal",
			ErrNotReady)
	case !head.Exists:
		return fmt.Errorf("%w: Redis was emptied: it has no log for this pool, which has been in use",
			ErrNotReady)
	case head.Epoch < epoch || head.Epoch == epoch && head.Seq < seq:
		return fmt.Errorf("%w: it ends at seq %d in epoch %d, and had acknowledged seq %d in epoch %d",
			ErrStale, head.Seq, head.Epoch, seq, epoch)
	}
	reply, err := canWriteScript.Run(ctx, s.redis, []string{s.pool.MetaKey()}).StringSlice()
	switch {
	case err != nil:
		return scriptFailure(err)
	case !slices.Equal(reply, []string{statusSameServer}):
		return ErrOtherServer
	}
	return nil
}
