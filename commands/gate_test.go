package commands

import (
	"errors"
	"testing"
)

// TestClosedGateRefusesEveryCommand checks that a service whose gate is closed answers
// NOT_READY to every command although Redis could decide it, and that Ready reports the
// reason.
func TestClosedGateRefusesEveryCommand(t *testing.T) {
	t.Parallel()
	f := openFixture(t)
	f.stock("shirt", 2)
	holdID := f.hold("shirt", 1)
	reason := errors.New("closed by the test")
	f.Gate().Close(reason)
	before := f.Dump()
	commands := []namedCommand{
		{"reserve", func() error { return ignore(f.Reserve(f.Ctx, f.request("shirt", 1))) }},
		{"confirm", func() error { return f.confirm(holdID, "p") }},
		{"cancel", func() error { return f.cancel(holdID) }},
		{"adjust", func() error { return ignore(f.AdjustStock(f.Ctx, f.adjustment("shirt", 1))) }},
		{"available", func() error { return ignore(f.Available(f.Ctx, "shirt")) }},
		{"ready", func() error { return f.Ready(f.Ctx) }},
	}
	for _, command := range commands {
		if err := command.run(); !errors.Is(err, ErrNotReady) {
			t.Errorf("%s: got %v, want ErrNotReady", command.name, err)
		}
	}
	f.WantUnchanged(t, before)
	if err := f.Ready(f.Ctx); !errors.Is(err, reason) {
		t.Errorf("ready: got %v, want it to wrap the reason", err)
	}
}

// TestAcknowledgedPositionNeverFalls checks that the gate keeps the highest position, in
// whatever order positions are acknowledged.
func TestAcknowledgedPositionNeverFalls(t *testing.T) {
	t.Parallel()
	gate := NewGate()
	gate.Acknowledge(1, 5)
	gate.Acknowledge(1, 4)
	gate.Acknowledge(2, 1)
	gate.Acknowledge(1, 9)
	epoch, seq := gate.Acknowledged()
	if epoch != 2 {
		t.Errorf("got epoch %d, want 2", epoch)
	}
	if seq != 1 {
		t.Errorf("got seq %d, want 1", seq)
	}
}
