package rebuild

import (
	"context"
	"testing"
)

// TestCloseCancelsBackgroundRebuild checks that a background rebuild outlives the request
// that started it, that Close cancels it, and that a rebuild started after Close is
// cancelled at once.
func TestCloseCancelsBackgroundRebuild(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.appendEvents(holdEvents("a", 20)...)
	f.project(heldUnits(1))
	b := NewBackground(f.rebuildConfig())
	reached := make(chan struct{})
	request, endRequest := context.WithCancel(f.ctx)
	id, err := b.Start(request, false, blocked(reached, nil))
	if err != nil {
		t.Fatal(err)
	}
	endRequest()
	<-reached
	if got := f.wantRuns("after the request", Running)[0].ID; got != id {
		t.Errorf("got run %d, want %d", got, id)
	}
	b.Close()
	f.wantRuns("after Close", Cancelled)
	f.wantNoShadows(heldUnits(1))
	if _, err := b.Start(f.ctx, false, heldUnits(1)); err != nil {
		t.Fatal(err)
	}
	b.Close()
	f.wantRuns("after a start on a closed Background", Cancelled, Cancelled)
}
