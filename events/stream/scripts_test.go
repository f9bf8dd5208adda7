package stream_test

import (
	"os"
	"testing"

	"github.com/stockstream/stockstream/commands/commandstest"
)

// TestEveryScriptHasAFullHeader checks that the header of every script describes its
// keys, its arguments, its answers and what it keeps true, and that no script builds a
// key.
func TestEveryScriptHasAFullHeader(t *testing.T) {
	t.Parallel()
	commandstest.CheckScriptHeaders(t, commandstest.ReadScripts(t, os.DirFS("."), 3))
}
