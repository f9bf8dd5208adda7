package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/testenv"
)

var update = flag.Bool("update", false,
	"write the real output and the real settings into the pages, instead of comparing")

// TestTranscripts types the commands that a page shows into a shell, against a
// `stockstream dev` of its own, and requires that each prints the output that the page
// shows, apart from ids and times. Run it with -update to write today's output into the
// pages.
func TestTranscripts(t *testing.T) {
	for _, page := range []string{"README.md", "docs/walkthrough.md"} {
		t.Run(page, func(t *testing.T) {
			path := filepath.Join("../..", page)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dev := startDev(t)
			shell := openShell(t, dev)
			replayed := 0
			now := consoleBlock.ReplaceAllStringFunc(string(text), func(block string) string {
				replayed++
				transcript := strings.TrimSuffix(strings.TrimPrefix(block, consoleStart), consoleEnd)
				return consoleStart + shell.replay(transcript) + consoleEnd
			})
			if replayed == 0 {
				t.Fatal("the page has no console block")
			}
			if !*update {
				return
			}
			if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

const (
	consoleStart = "```console\n"
	consoleEnd   = "```"
)

var consoleBlock = regexp.MustCompile("(?s)```console\n.*?```")

// devRun is a running `stockstream dev`: its data directory, and the addresses
// (host:port) of its servers.
type devRun struct{ dir, http, redis, postgres string }

// startDev runs `stockstream dev` on free ports until the test ends, waits until it is
// ready, and checks its banner.
func startDev(t *testing.T) devRun {
	t.Helper()
	d := devRun{
		dir:      testenv.TempDir(t),
		http:     freeAddr(t),
		redis:    freeAddr(t),
		postgres: freeAddr(t),
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out testenv.LogBuffer
	done := make(chan error, 1)
	go func() {
		args := []string{
			"dev", "--dir", d.dir, "--http-addr", d.http, "--dev-redis-addr", d.redis, "--dev-postgres-addr",
			d.postgres,
		}
		done <- run(ctx, args, nil, &out, &out)
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
	for _, want := range []string{
		"http://" + d.http,
		"redis-cli -u redis://" + d.redis,
		"psql 'postgres://app@" + d.postgres,
		"curl -i",
		"STOCKSTREAM_DATABASE_URL='postgres://app@" + d.postgres,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("dev printed %q, want it to contain %q", out.String(), want)
		}
	}
	return d
}

// shell is a running bash into which a test types the commands of a page.
type shell struct {
	t   *testing.T
	dev devRun
	in  io.Writer
	out *bufio.Reader
}

// openShell starts a bash that ends with the test. It fails the test if a program that
// the pages use is not installed.
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
	s := &shell{
		t:   t,
		dev: dev,
		in:  in,
		out: bufio.NewReader(out),
	}
	s.run(`redis-cli() { command redis-cli --no-raw "$@"; }; export PGOPTIONS= PAGER=cat`) // as in a terminal
	return s
}

const endOfOutput = "@@ end of output"

// run types one command, and returns its output.
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

// replay types the commands of a console block, compares the output of each with the
// output shown, and returns the block with today's output.
func (s *shell) replay(block string) string {
	s.t.Helper()
	var now strings.Builder
	for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
		command, shown := splitStep(step)
		s.awaitLevel()
		printed := oneNewline(s.run(s.onFreePorts(command)))
		if mask(printed) != mask(shown) && !*update {
			s.t.Errorf("$ %s\nprinted:\n%s\nthe page shows:\n%s", command, printed, shown)
		}
		now.WriteString("$ " + command + "\n" + printed)
	}
	return now.String()
}

// onFreePorts replaces the default addresses in a command by those of the test's own
// servers.
func (s *shell) onFreePorts(command string) string {
	_, redisPort, err := net.SplitHostPort(s.dev.redis)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.NewReplacer(
		"127.0.0.1:8080", s.dev.http,
		"127.0.0.1:5433", s.dev.postgres,
		"-p 6380", "-p "+redisPort,
	).Replace(command)
}

// splitStep splits a step into its command, which continues on the next line after a
// backslash, and the output shown.
func splitStep(step string) (command, shown string) {
	lines := strings.Split(step, "\n")
	end := 1
	for end < len(lines) && strings.HasSuffix(lines[end-1], `\`) {
		end++
	}
	return strings.Join(lines[:end], "\n"), oneNewline(strings.Join(lines[end:], "\n"))
}

// oneNewline returns the text with exactly one newline at its end, and an empty text as
// it is.
func oneNewline(s string) string {
	if s = strings.TrimRight(s, "\n"); s != "" {
		s += "\n"
	}
	return s
}

// varying are the parts of an output that differ from run to run, and the text that
// stands for each in a comparison.
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

// mask replaces the varying parts of an output.
func mask(s string) string {
	for _, v := range varying {
		s = v.pattern.ReplaceAllString(s, v.mask)
	}
	return s
}

// awaitLevel waits until the journal and the read tables have every event: a person types
// more slowly than this test.
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
	(&fixture{
		t:     s.t,
		ctx:   ctx,
		redis: client,
		db:    db,
	}).awaitCaughtUp()
	testenv.Eventually(s.t, 5*time.Second, func() (bool, string) {
		groups, err := client.XInfoGroups(ctx, "inventory.events").Result()
		return err != nil || groups[0].Lag == 0, fmt.Sprint(groups)
	})
}
