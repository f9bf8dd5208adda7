// Command testsummary reads `go test -json` and prints what people want to see of it: a line per package, the whole
// output of what failed, and the count at the end. A skipped test counts as a failure: a test that did not run has
// shown nothing.
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
	ImportPath  string // of a build's output
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

// summary is what has been read so far.
type summary struct {
	out                     io.Writer
	output                  map[string][]string // of tests and packages that are still running
	passed, failed, skipped int
	packagesFailed          int
}

// summarise reads to the end and reports whether all is well.
func summarise(in io.Reader, out io.Writer) (ok bool, err error) {
	s := &summary{out: out, output: map[string][]string{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(out, lines.Text()) // the go command's own words
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
	fmt.Fprintf(s.out, "FAIL  %s\n%s%s", name, strings.Join(s.output[e.FailedBuild], ""), strings.Join(s.output[name], ""))
}
