package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// stoppedRebuild is a rebuild of holds in a process of its own, which was stopped
// (SIGSTOP) while its swap waited for a reader.
type stoppedRebuild struct {
	s      *fixture
	cmd    *exec.Cmd
	out    *testenv.LogBuffer
	reader pgx.Tx
}

// stopRebuild starts a rebuild of holds and stops its process. `projections list` and
// `projections show` name the reader before that.
func (s *fixture) stopRebuild() *stoppedRebuild {
	s.t.Helper()
	s.fillJournal(200)
	reader, err := s.connect().Begin(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := reader.Exec(s.ctx, `SELECT FROM holds`); err != nil {
		s.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	r := &stoppedRebuild{
		s:      s,
		cmd:    exec.Command(self, "projections", "rebuild", "holds"),
		out:    &testenv.LogBuffer{},
		reader: reader,
	}
	r.cmd.Env = append(s.environ(), asProgram+"=1", absenceMax+"=5s")
	r.cmd.Stdout = r.out
	r.cmd.Stderr = r.out
	if err := r.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	testenv.Eventually(s.t, 30*time.Second, func() (bool, string) {
		run := s.projection("holds").Run
		return run != nil && run.WaitsFor != nil, fmt.Sprintf("%+v\n%s", run, r.out)
	})
	pid := fmt.Sprintf("pid %d ", reader.Conn().PgConn().PID())
	s.wantOutput("projections list", "waits for "+pid)
	s.wantOutput("projections show holds", pid, "its query: SELECT FROM holds")
	if want := `"waits_for":{"pid":` + pid[len("pid "):len(pid)-1]; !strings.Contains(r.out.String(), want) {
		s.t.Errorf("the rebuild printed %s\nwant it to contain %s", r.out, want)
	}
	r.signal(syscall.SIGSTOP)
	return r
}

func (r *stoppedRebuild) signal(signal syscall.Signal) {
	r.s.t.Helper()
	if err := r.cmd.Process.Signal(signal); err != nil {
		r.s.t.Fatal(err)
	}
}

func (r *stoppedRebuild) endReader() {
	r.s.t.Helper()
	if err := r.reader.Rollback(r.s.ctx); err != nil {
		r.s.t.Fatal(err)
	}
}

// requireFailure continues the process, and checks that it fails with an error that
// contains text.
func (r *stoppedRebuild) requireFailure(text string) {
	r.s.t.Helper()
	r.signal(syscall.SIGCONT)
	if err := r.cmd.Wait(); err == nil {
		r.s.t.Errorf("the process that was stopped succeeded, and printed:\n%s", r.out)
	}
	if !strings.Contains(r.out.String(), text) {
		r.s.t.Errorf("the process that was stopped printed:\n%s\nwant it to contain %q", r.out, text)
	}
}

// requireRuns checks the states of all rebuilds, newest first.
func (s *fixture) requireRuns(states ...rebuild.State) {
	s.t.Helper()
	runs, err := rebuild.List(s.ctx, s.db, 10)
	if err != nil {
		s.t.Fatal(err)
	}
	var got []rebuild.State
	for _, r := range runs {
		got = append(got, r.State)
	}
	if fmt.Sprint(got) != fmt.Sprint(states) {
		s.t.Errorf("runs: got %v, want %v: %+v", got, states, runs)
	}
}

// TestStoppedRebuildIsTakenOver stops the process of a rebuild with SIGSTOP. Another
// rebuild is refused only until Postgres has ended the lease, and then succeeds. The
// process that was stopped fails when it goes on, and the tables of the other rebuild
// stay.
func TestStoppedRebuildIsTakenOver(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	stopped := s.stopRebuild()
	stopped.endReader()
	testenv.Eventually(t, 60*time.Second, func() (bool, string) {
		out, err := s.cli("projections", "rebuild", "holds")
		if err != nil && !errors.Is(err, rebuild.ErrRebuildRunning) {
			t.Fatal(err, out)
		}
		return err == nil, fmt.Sprint(err)
	})
	swapped := s.projection("holds").Old
	stopped.requireFailure("lost its lease")
	s.requireRuns(rebuild.Done, rebuild.Interrupted)
	if got := s.projection("holds").Old; *got != *swapped {
		t.Errorf("old tables: got %+v, want those of the second rebuild, %+v", got, swapped)
	}
	if got := queryValue[int](s, `SELECT count(*) FROM holds`); got != 200 {
		t.Errorf("holds: got %d, want 200", got)
	}
}

// TestStoppedRebuildNeverSwapsAfterItsCancel cancels a rebuild whose process is stopped,
// and lets it go on at once. It fails and has swapped nothing.
func TestStoppedRebuildNeverSwapsAfterItsCancel(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	stopped := s.stopRebuild()
	s.wantOutput("projections cancel", "swaps no more tables")
	stopped.endReader()
	stopped.requireFailure("cancelled")
	s.requireRuns(rebuild.Cancelled)
	if old := s.projection("holds").Old; old != nil {
		t.Errorf("got old tables %+v, want none", old)
	}
}

// TestCancelEndsARebuildThatStaysStopped cancels a rebuild whose process stays stopped.
// Postgres ends its lease, a second cancel ends its other sessions, and nothing is left
// that a third one could end.
func TestCancelEndsARebuildThatStaysStopped(t *testing.T) {
	t.Parallel()
	s := newFixture(t)
	stopped := s.stopRebuild()
	s.wantOutput("projections cancel", "swaps no more tables")
	testenv.Eventually(t, 60*time.Second, func() (bool, string) {
		state := s.projection("holds").Run.State
		return state == rebuild.Cancelled, string(state)
	})
	const sessions = `SELECT count(*) FROM rebuilds, unnest(sessions) AS id JOIN pg_stat_activity ON id = to_hex(trunc(extract(epoch FROM backend_start))::bigint) || '.' || to_hex(pid)`
	if got := queryValue[int](s, sessions); got == 0 {
		t.Error("the stopped process has no session left before the second cancel, want some")
	}
	s.wantOutput("projections cancel", "swaps no more tables")
	if got := queryValue[int](s, sessions); got != 0 {
		t.Errorf("the stopped process has %d sessions left after the second cancel, want none", got)
	}
	s.wantError("projections cancel", rebuild.ErrNotRunning.Error())
	stopped.endReader()
	stopped.requireFailure("lost its lease")
	s.requireRuns(rebuild.Cancelled)
}
