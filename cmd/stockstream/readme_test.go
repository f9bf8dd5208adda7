package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"net/http"

	"github.com/stockstream/stockstream/internal/testenv"
)

var update = flag.Bool("update", false, "write what the walk-through's commands print into the README")

const readmePath = "../../README.md"

// TestWalkThrough starts `stockstream dev` and types the README's walk-through into a shell. What every command prints
// is what the README shows, ids and times aside.
func TestWalkThrough(t *testing.T) {
	readme, err := os.ReadFile(readmePath)
	if err != nil {
		t.Fatal(err)
	}
	dev := startDev(t)
	if err := run(t.Context(), []string{"dev", "--dir", dev.dir}, nil, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "another `stockstream dev` runs") {
		t.Errorf("a second dev in the same directory: got %v", err)
	}
	shell := openShell(t, dev)
	text := consoleBlock.ReplaceAllStringFunc(string(readme), func(block string) string {
		return "```console\n" + shell.replay(strings.TrimSuffix(strings.TrimPrefix(block, "```console\n"), "```")) + "```"
	})
	if *update {
		if err := os.WriteFile(readmePath, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var consoleBlock = regexp.MustCompile("(?s)```console\n.*?```")

// devRun is a `stockstream dev` on free ports.
type devRun struct{ dir, http, redis, postgres string }

func startDev(t *testing.T) devRun {
	t.Helper()
	d := devRun{dir: t.TempDir(), http: freeAddr(t), redis: freeAddr(t), postgres: freeAddr(t)}
	ctx, cancel := context.WithCancel(t.Context())
	var out syncBuffer
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"dev", "--dir", d.dir, "--http-addr", d.http, "--dev-redis-addr", d.redis, "--dev-postgres-addr", d.postgres}, nil, &out, &out)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("dev: %v", err)
		}
	})
	testenv.Eventually(t, 30*time.Second, func() (bool, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.http+"/readyz", nil)
		if err != nil {
			return false, err.Error()
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, err.Error()
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK, out.String()
	})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for _, says := range []string{"http://" + d.http, "redis-cli -u redis://" + d.redis, "psql 'postgres://app@" + d.postgres, "curl -i", "STOCKSTREAM_DATABASE_URL='postgres://app@" + d.postgres} {
		if !strings.Contains(out.String(), says) {
			t.Errorf("dev printed %q, want it to hold %q", out.String(), says)
		}
	}
	return d
}

// shell is a bash that commands are typed into.
type shell struct {
	t   *testing.T
	dev devRun
	in  io.Writer
	out *bufio.Reader
}

func openShell(t *testing.T, dev devRun) *shell {
	t.Helper()
	for _, tool := range []string{"bash", "curl", "psql", "redis-cli"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	s := &shell{t: t, dev: dev, in: in, out: bufio.NewReader(out)}
	s.run(`redis-cli() { command redis-cli --no-raw "$@"; }; export PGOPTIONS= PAGER=cat`) // as in a terminal
	return s
}

const endOfOutput = "@@ end of output"

// run types one command, and returns what it prints.
func (s *shell) run(command string) string {
	s.t.Helper()
	fmt.Fprintf(s.in, "%s\necho '%s'\n", command, endOfOutput)
	var output strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("%s: the shell ended: %v", command, err)
		}
		if before, ended := strings.CutSuffix(line, endOfOutput+"\n"); ended {
			return output.String() + before
		}
		output.WriteString(strings.TrimRight(line, " \r\n") + "\n")
	}
}

// replay types the commands of a block, compares, and returns the block with the output of now.
func (s *shell) replay(block string) string {
	s.t.Helper()
	var now strings.Builder
	for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, shown := splitStep(step)
		s.awaitLevel()
		port := func(addr string) string { _, p, _ := net.SplitHostPort(addr); return p }
		typed := strings.NewReplacer("127.0.0.1:8080", s.dev.http, "127.0.0.1:5433", s.dev.postgres, "-p 6380", "-p "+port(s.dev.redis)).Replace(command)
		printed := oneNewline(s.run(typed))
		if got, want := mask(printed), mask(shown); got != want && !*update {
			s.t.Errorf("$ %s\nprinted:\n%s\nthe README shows:\n%s", command, printed, shown)
		}
		now.WriteString("$ " + command + "\n" + printed)
	}
	return now.String()
}

// splitStep takes a command, which may go on after a backslash, and what it is shown to print.
func splitStep(step string) (command, shown string) {
	lines := strings.Split(step, "\n")
	end := 1
	for end < len(lines) && strings.HasSuffix(lines[end-1], `\`) {
		end++
	}
	return strings.Join(lines[:end], "\n"), oneNewline(strings.Join(lines[end:], "\n"))
}

// oneNewline ends a text with one newline, unless it is empty.
func oneNewline(s string) string {
	if s = strings.TrimRight(s, "\n"); s != "" {
		s += "\n"
	}
	return s
}

var varying = []struct {
	pattern *regexp.Regexp
	mask    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "<id>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "<time>"},
	{regexp.MustCompile(`\d{13}-\d+`), "<stream id>"},
	{regexp.MustCompile(`\d{13}`), "<ms>"},
	{regexp.MustCompile(`"expires_in_ms":\d+`), `"expires_in_ms":<ms>`},
}

func mask(s string) string {
	for _, v := range varying {
		s = v.pattern.ReplaceAllString(s, v.mask)
	}
	return s
}

// awaitLevel waits until the read tables have what was sold: a reader types more slowly than this test.
func (s *shell) awaitLevel() {
	s.t.Helper()
	ctx := s.t.Context()
	db, err := pgx.Connect(ctx, "postgres://app@"+s.dev.postgres+"/inventory")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close(ctx)
	client := redis.NewClient(&redis.Options{Addr: s.dev.redis})
	defer client.Close()
	(&fixture{t: s.t, ctx: ctx, redis: client, db: db}).awaitCaughtUp()
	testenv.Eventually(s.t, 5*time.Second, func() (bool, string) {
		groups, err := client.XInfoGroups(ctx, "inventory.events").Result()
		return err != nil || groups[0].Lag == 0, fmt.Sprint(groups)
	})
}
