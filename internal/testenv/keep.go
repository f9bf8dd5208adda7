package testenv

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// keepVariable is the environment variable that keeps a failed test's servers running.
// `make keep` sets it.
const keepVariable = "STOCKSTREAM_TEST_KEEP"

// kept has the servers of all tests, if keepVariable is set.
var kept = keeper{
	out: os.Stderr,
	wait: func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
	},
	commands: map[string][]string{},
}

// keeper keeps the servers of failed tests until a person has looked into them.
type keeper struct {
	out  io.Writer
	wait func() // returns at Ctrl-C

	mu       sync.Mutex
	commands map[string][]string // by test: the commands that connect to its servers
}

// keepIfFailed keeps a server running if the test fails and keepVariable is set: it
// prints the commands that connect to the test's servers, and waits for Ctrl-C before
// they are stopped and their data removed. Call it after the cleanup that stops the
// server is registered, because cleanups run in reverse order.
func keepIfFailed(t testing.TB, command string) {
	t.Helper()
	if os.Getenv(keepVariable) != "" {
		kept.add(t, command)
	}
}

func (k *keeper) add(t testing.TB, command string) {
	t.Helper()
	k.mu.Lock()
	k.commands[t.Name()] = append(k.commands[t.Name()], command)
	k.mu.Unlock()
	t.Cleanup(func() { k.release(t) })
}

// release prints a failed test's commands and waits. It does so once for all servers of
// the test.
func (k *keeper) release(t testing.TB) {
	t.Helper()
	k.mu.Lock()
	commands := k.commands[t.Name()]
	delete(k.commands, t.Name())
	k.mu.Unlock()
	if len(commands) == 0 || !t.Failed() {
		return
	}
	const format = "%s failed. Its servers run until you press Ctrl-C. To look into them:\n  %s\n"
	fmt.Fprintf(k.out, format, t.Name(), strings.Join(commands, "\n  "))
	k.wait()
}
