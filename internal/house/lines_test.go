package house

import (
	"go/scanner"
	"go/token"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	commentColumns = 90  // of a line that has nothing but a comment
	codeColumns    = 110 // of every other line
	tabColumns     = 4
	literalColumns = 60 // a string literal this wide excuses its line: better not break it
)

// longLine is a line of Go that is too long.
type longLine struct {
	line, columns, limit int
}

// findLongLines returns the lines of a Go file that are too long. Three things excuse a
// line: a URL, a long string literal, and being part of a string literal of several
// lines.
func findLongLines(text string) []longLine {
	const (
		code = iota
		comment
		excused
	)
	lines := strings.Split(text, "\n")
	kinds := make([]int, len(lines))
	set := token.NewFileSet()
	file := set.AddFile("", -1, len(text))
	var s scanner.Scanner
	s.Init(file, []byte(text), nil, scanner.ScanComments)
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			break
		}
		first := file.Line(pos) - 1
		last := first + strings.Count(literal, "\n")
		switch {
		case tok == token.COMMENT && strings.TrimSpace(lines[first][:file.Position(pos).Column-1]) == "":
			for i := first; i <= last; i++ {
				kinds[i] = comment
			}
		case tok == token.STRING && (last > first || utf8.RuneCountInString(literal) >= literalColumns):
			for i := first; i <= last; i++ {
				kinds[i] = excused
			}
		}
	}
	var long []longLine
	for i, line := range lines {
		limit := codeColumns
		if kinds[i] == comment {
			limit = commentColumns
		}
		columns := columnsOf(line)
		isDirective := strings.HasPrefix(line, "//go:")
		if columns > limit && kinds[i] != excused && !isDirective && !strings.Contains(line, "://") {
			long = append(long, longLine{line: i + 1, columns: columns, limit: limit})
		}
	}
	return long
}

// columnsOf returns the width of a line.
func columnsOf(line string) int {
	return utf8.RuneCountInString(line) + (tabColumns-1)*strings.Count(line, "\t")
}

func TestFindLongLines(t *testing.T) {
	t.Parallel()
	wide := func(n int) string { return strings.Repeat("x", n) }
	tests := []struct {
		name, text string
		want       []longLine
	}{
		{"comment that fits", "// " + wide(87), nil},
		{"long comment", "// " + wide(88), []longLine{{1, 91, 90}}},
		{"long comment behind a tab", "\n\t// " + wide(84), []longLine{{2, 91, 90}}},
		{"umlauts count once", "// " + strings.Repeat("ü", 87), nil},
		{"comment with a URL", "// https://" + wide(100), nil},
		{"directive", "//go:generate " + wide(100), nil},
		{"long line in a block", "/* a\n" + wide(91) + "\n*/", []longLine{{2, 91, 90}}},
		{"code that fits", "var " + wide(106), nil},
		{"long code", "var " + wide(107), []longLine{{1, 111, 110}}},
		{"long code behind tabs", "\t\t" + wide(103), []longLine{{1, 111, 110}}},
		{"code with a comment behind it", "x() // " + wide(104), []longLine{{1, 111, 110}}},
		{"long literal", "var x = \"" + wide(110) + "\"", nil},
		{"short literal", "var " + wide(107) + " = \"x\"", []longLine{{1, 117, 110}}},
		{
			name: "literal of several lines",
			text: "var x = `a\n" + wide(120) + "\n`\nvar " + wide(107),
			want: []longLine{{4, 111, 110}},
		},
	}
	for _, test := range tests {
		if got := findLongLines(test.text); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestLinesAreShort checks that the lines of the Go files fit on a screen.
func TestLinesAreShort(t *testing.T) {
	t.Parallel()
	for _, file := range readTree(t, ".go") {
		for _, long := range findLongLines(file.text) {
			t.Errorf("%s:%d: %d columns, want at most %d", file.path, long.line, long.columns, long.limit)
		}
	}
}
