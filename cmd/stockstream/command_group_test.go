package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// TestNouns holds that a noun shows what it can do, and that a word which is none of that is an error.
func TestNouns(t *testing.T) {
	t.Parallel()
	for _, noun := range []string{"projections", "redis", "journal", "events", "dead-letters", "migrate"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{noun}, nil, &out, &out); err != nil || !strings.Contains(out.String(), "Available Commands") {
			t.Errorf("%s: got %q (%v), want its commands", noun, &out, err)
		}
		out.Reset()
		if err := run(t.Context(), []string{noun, "lst"}, nil, &out, &out); err == nil || !strings.Contains(err.Error(), `unknown command "lst"`) {
			t.Errorf("%s lst: got %q (%v), want an error", noun, &out, err)
		}
	}
}

// TestBrokenOff holds that Ctrl-C ends a command with an error that says so.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range []string{"audit", "redis rebuild", "journal parts"} {
		var out bytes.Buffer
		if err := run(ctx, strings.Fields(args), nil, &out, &out); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "broken off: ") {
			t.Errorf("%s: got %v, want it broken off", args, err)
		}
	}
}
