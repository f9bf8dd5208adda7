package logonce

import "testing"

// TestLastChanges checks that a text is new once, and again after another text or a
// success.
func TestLastChanges(t *testing.T) {
	t.Parallel()
	var last Last
	for i, step := range []struct {
		text string
		want bool
	}{
		{"", false},
		{"down", true},
		{"down", false},
		{"slow", true},
		{"down", true},
		{"", true},
		{"down", true},
	} {
		if got := last.Changes(step.text); got != step.want {
			t.Errorf("step %d, %q: got %t, want %t", i, step.text, got, step.want)
		}
	}
}
