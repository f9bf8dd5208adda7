// Command testsummary reads the output of `go test -json` and prints a summary: a line
// per package, the whole output of each failed test, and a count at the end. A skipped
// test counts as a failure, because it has checked nothing.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // set instead of Package for the output of a build
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

func main() {
	ok, err := summarise(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// summary is the state while the events are read.
type summary struct {
	out            io.Writer
	output         map[string][]string // output of the tests and packages that still run
	passed         int
	failed         int
	skipped        int
	packagesFailed int
}

// summarise reads all events and prints the summary. ok is false if a test failed or was
// skipped, a package failed, or no test passed.
func summarise(in io.Reader, out io.Writer) (ok bool, err error) {
	s := &summary{out: out, output: map[string][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // a message of the go command itself
			continue
		}
		s.take(e)
	}
	fmt.Fprintf(out, "%d passed, %d failed", s.passed, s.failed+s.skipped)
	if s.skipped > 0 {
		fmt.Fprintf(out, " (%d of them skipped)", s.skipped)
	}
	fmt.Fprintln(out)
	return s.failed+s.skipped+s.packagesFailed == 0 && s.passed > 0, lines.Err()
}

// take adds one event to the summary.
func (s *summary) take(e event) {
	name := strings.TrimSuffix(e.Package+e.ImportPath+" "+e.Test, " ")
	switch e.Action {
	case "output", "build-output":
		s.output[name] = append(s.output[name], e.Output)
		return
	case "pass":
		if e.Test != "" {
			s.passed++
		} else {
			fmt.Fprintf(s.out, "ok    %s  %.1fs\n", e.Package, e.Elapsed)
		}
	case "fail":
		s.fail(e, name)
	case "skip":
		if e.Test != "" {
			s.skipped++
			fmt.Fprintf(s.out, "SKIP  %s\n%s", name, strings.Join(s.output[name], ""))
		}
	default:
		return
	}
	delete(s.output, name)
}

func (s *summary) fail(e event, name string) {
	if e.Test != "" {
		s.failed++
	} else {
		s.packagesFailed++
	}
	ofBuild := strings.Join(s.output[e.FailedBuild], "")
	ofTest := strings.Join(s.output[name], "")
	fmt.Fprintf(s.out, "FAIL  %s\n%s%s", name, ofBuild, ofTest)
}
