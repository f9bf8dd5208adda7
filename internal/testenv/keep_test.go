package testenv

import (
	"slices"
	"strings"
	"testing"
)

// fakeTest is a test that can be made to fail without failing the real one.
type fakeTest struct {
	testing.TB
	failed   bool
	cleanups []func()
}

func (f *fakeTest) Failed() bool           { return f.failed }
func (f *fakeTest) Cleanup(cleanup func()) { f.cleanups = append(f.cleanups, cleanup) }

// end runs the cleanups like the testing package does.
func (f *fakeTest) end() {
	for _, cleanup := range slices.Backward(f.cleanups) {
		cleanup()
	}
}

// TestKeeperWaitsOnceForAFailedTest checks that a failed test with two servers prints
// both commands and waits once, before its first server is stopped, and that a passed
// test does not wait.
func TestKeeperWaitsOnceForAFailedTest(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	var steps []string
	k := keeper{
		out:      &out,
		wait:     func() { steps = append(steps, "wait") },
		commands: map[string][]string{},
	}
	run := func(failed bool) {
		test := &fakeTest{TB: t}
		for _, name := range []string{"redis", "postgres"} {
			test.Cleanup(func() { steps = append(steps, "stop "+name) })
			k.add(test, "connect to "+name)
		}
		test.failed = failed
		test.end()
	}

	run(false)
	if got, want := strings.Join(steps, ", "), "stop postgres, stop redis"; got != want {
		t.Errorf("a passed test: got %s, want %s", got, want)
	}
	if out.Len() > 0 {
		t.Errorf("a passed test printed %q", out.String())
	}

	steps = nil
	run(true)
	if got, want := strings.Join(steps, ", "), "wait, stop postgres, stop redis"; got != want {
		t.Errorf("a failed test: got %s, want %s", got, want)
	}
	if want := "  connect to redis\n  connect to postgres\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("a failed test printed %q, want it to end with %q", out.String(), want)
	}
}
