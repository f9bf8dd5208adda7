package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

// TestCommandGroupShowsHelpOrRefusesUnknownSubcommand checks that a group without
// arguments prints its subcommands, and that an unknown subcommand is an error.
func TestCommandGroupShowsHelpOrRefusesUnknownSubcommand(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"projections", "redis", "journal", "events", "dead-letters", "migrate"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{group}, nil, &out, &out); err != nil {
			t.Errorf("%s: got error %v, want help", group, err)
		}
		if !strings.Contains(out.String(), "Available Commands") {
			t.Errorf("%s: printed %q, want its subcommands", group, &out)
		}
		out.Reset()
		err := run(t.Context(), []string{group, "lst"}, nil, &out, &out)
		if err == nil || !strings.Contains(err.Error(), `unknown command "lst"`) {
			t.Errorf("%s lst: got %q (%v), want an error for the unknown command", group, &out, err)
		}
	}
}

// TestInterruptedCommandSaysSo checks that a command whose context is cancelled, as by
// Ctrl-C, ends with an error that says it was interrupted.
func TestInterruptedCommandSaysSo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, command := range []string{"audit", "redis rebuild", "journal parts"} {
		var out bytes.Buffer
		err := run(ctx, strings.Fields(command), nil, &out, &out)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want context.Canceled", command, err)
			continue
		}
		if !strings.HasPrefix(err.Error(), "interrupted: ") {
			t.Errorf("%s: got %v, want it to start with interrupted", command, err)
		}
	}
}
