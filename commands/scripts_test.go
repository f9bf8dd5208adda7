package commands

import (
	"maps"
	"slices"
	"testing"

	"github.com/stockstream/stockstream/commands/commandstest"
)

const scriptCount = 7

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
		statusDecided,
		statusFailed,
		statusBrokenOff,
		statusCreated,
		statusConfirmed,
		statusCancelled,
		statusExpired,
		statusAdjusted,
		statusReplayed,
		statusSameServer,
	}
	known = slices.AppendSeq(known, maps.Keys(refusals))
	alwaysAnswered := []string{
		statusHoldConfirmed, // 'HOLD_' .. state
		statusHoldCancelled,
		statusHoldExpired,
		statusCancelled, // the state in ARGV
		statusExpired,
	}
	texts := commandstest.ReadScripts(t, luaFiles, scriptCount)
	commandstest.CheckStatusWords(t, texts, known, alwaysAnswered)
}
