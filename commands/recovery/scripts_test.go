package recovery

import (
	"testing"

	"github.com/stockstream/stockstream/commands/commandstest"
)

const scriptCount = 6

// TestEveryScriptHasAFullHeader checks that the header of every script describes its
// keys, its arguments, its answers and what it keeps true, and that no script builds a
// key.
func TestEveryScriptHasAFullHeader(t *testing.T) {
	t.Parallel()
	commandstest.CheckScriptHeaders(t, commandstest.ReadScripts(t, luaFiles, scriptCount))
}

// TestScriptsAnswerTheStatusWordsThatGoKnows checks that the scripts and Go have the same
// status words, and that each script's header names the words it answers.
func TestScriptsAnswerTheStatusWordsThatGoKnows(t *testing.T) {
	t.Parallel()
	known := []string{
		statusInitialised,
		statusExists,
		statusClosed,
		statusChanged,
		statusReopened,
		statusGone,
		statusBegun,
		statusOpen,
		statusSuperseded,
		statusPublished,
		statusOtherServer,
		statusRaised,
	}
	commandstest.CheckStatusWords(t, commandstest.ReadScripts(t, luaFiles, scriptCount), known, nil)
}
