package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a child process, which can be started again after it has ended.
type process struct {
	name string
	log  *tail

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has exited
}

// start starts the child. The goroutine that starts it stays locked to its thread for as
// long as the child lives, because Linux sends the parent-death signal when the thread
// that created the child ends, not when the process does.
func (p *process) start(cmd *exec.Cmd) error {
	cmd.Stdout = p.log
	cmd.Stderr = p.log
	ownGroup(cmd)
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the log shows how the child ended
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd = cmd
	p.done = done
	return nil
}

// Pid returns the child's process id.
func (p *process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Done returns a channel that is closed when the current child has exited.
func (p *process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Signal sends a signal to the child. It returns nil if the child has exited.
func (p *process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// Kill kills the child with SIGKILL and waits until it has exited.
func (p *process) Kill() error {
	err := p.Signal(syscall.SIGKILL)
	<-p.Done()
	return err
}

// Pause stops the child with SIGSTOP. It keeps its connections, but answers nothing.
func (p *process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused child go on.
func (p *process) Resume() error { return p.Signal(syscall.SIGCONT) }

// stop sends the signal ask and waits until the child has exited. A paused child goes on
// first. It asks again every second, because Redis ignores the signal while it writes its
// first append-only file. If ctx ends before the child has exited, stop kills it.
func (p *process) stop(ctx context.Context, ask syscall.Signal) error {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		if err := errors.Join(p.Signal(ask), p.Resume()); err != nil {
			return err
		}
		select {
		case <-p.Done():
			return nil
		case <-ctx.Done():
			slow := fmt.Errorf("%s did not stop in time and was killed; its log ends with:\n%s", p.name, p.log)
			return errors.Join(slow, p.Kill())
		case <-again.C:
		}
	}
}

const (
	readyTimeout  = 30 * time.Second
	readyInterval = 10 * time.Millisecond
)

// await calls ready until it succeeds. It fails if the child exits or is not ready in
// time.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	exited := p.Done()
	// If the child exits, ready must end, too: it may be waiting for another program on
	// the same port.
	go func() {
		select {
		case <-exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return &exitError{name: p.name, log: p.log.String()}
		default:
		}
		select {
		case <-exited:
			return &exitError{name: p.name, log: p.log.String()}
		case <-ctx.Done():
			notReady := fmt.Errorf("%s is not ready: %w; its log ends with:\n%s", p.name, err, p.log)
			return errors.Join(notReady, p.Kill())
		case <-time.After(readyInterval):
		}
	}
}

// exitError reports that a child exited before it was ready.
type exitError struct{ name, log string }

func (e *exitError) Error() string {
	return fmt.Sprintf("%s exited before it was ready; its log ends with:\n%s", e.name, e.log)
}

// portTaken reports whether a child exited because another program listens on its port.
func portTaken(err error) bool {
	var exited *exitError
	return errors.As(err, &exited) && strings.Contains(exited.log, "ddress already in use")
}

// startOn calls start with the host and port of addr. If addr has no port, it takes a
// free one, and tries another free one if a program takes the port in the meantime.
func startOn(addr string, start func(host string, port int) error) error {
	host := "127.0.0.1"
	wanted := 0 // any free port
	if addr != "" {
		h, p, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("address %q, want host:port: %w", addr, err)
		}
		if wanted, err = strconv.Atoi(p); err != nil {
			return fmt.Errorf("address %q, want host:port: %w", addr, err)
		}
		host = h
	}
	const attempts = 5
	for attempt := 1; ; attempt++ {
		port := wanted
		if port == 0 {
			var err error
			if port, err = freePort(host); err != nil {
				return err
			}
		}
		err := start(host, port)
		switch {
		case err == nil:
			return nil
		case wanted != 0 && portTaken(err):
			return fmt.Errorf("port %d is taken by another program: %w", port, err)
		case !portTaken(err) || attempt == attempts:
			return err
		}
	}
}

// awaitAll waits until servers work together: it calls ready until it succeeds. It fails
// if that takes longer than readyTimeout.
func awaitAll(ctx context.Context, name string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w", name, err)
		case <-time.After(readyInterval):
		}
	}
}

// freePort returns a port on which no program listens at the moment.
func freePort(host string) (int, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	if err := listener.Close(); err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// tail is a writer that passes a log on and remembers its end, for error messages.
type tail struct {
	next io.Writer // may be nil

	mu  sync.Mutex
	end []byte
}

const tailMax = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.end = append(t.end, p...)
	if len(t.end) > tailMax {
		t.end = bytes.Clone(t.end[len(t.end)-tailMax:])
	}
	t.mu.Unlock()
	if t.next == nil {
		return len(p), nil
	}
	return t.next.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}

// endLeftover stops a server that an earlier parent left running on the data directory
// dir. It reads the pid from the server's pid file. The file may be old, and another
// program may have that pid now, so it stops only a process that works in dir.
func endLeftover(pidFile, name, dir string) error {
	content, err := os.ReadFile(pidFile) //nolint:gosec // below the directory that the caller named
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the pid file of an earlier %s: %w", name, err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !runsIn(pid, name, dir) {
		return nil //nolint:nilerr // a file without a pid belongs to no process
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		return fmt.Errorf("stop the %s that an earlier process left running (pid %d): %w", name, pid, err)
	}
	for deadline := time.Now().Add(readyTimeout); runsIn(pid, name, dir); time.Sleep(readyInterval) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the %s that an earlier process left running (pid %d) does not stop; stop it and try again", name, pid)
		}
	}
	return nil
}

// runsIn reports whether a process with this pid exists, is no zombie, runs the named
// program, and has dir as its working directory, as both servers have.
func runsIn(pid int, name, dir string) bool {
	ps := exec.Command("ps", "-o", "stat=,comm=", "-p", strconv.Itoa(pid)) //nolint:gosec // a number
	out, err := ps.Output()
	if err != nil {
		return false
	}
	state, program, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if strings.HasPrefix(state, "Z") || filepath.Base(strings.TrimSpace(program)) != name {
		return false
	}
	works, err := os.Stat(workingDirectory(pid))
	if err != nil {
		return false
	}
	own, err := os.Stat(dir)
	return err == nil && os.SameFile(works, own)
}
