package house

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// prose is a text for people, and the line of the file in which it begins.
type prose struct {
	text   string
	line   int
	inTest bool // it is a comment of a test
}

// proseOf returns the comments of a file of code, with the names of its tests, or the
// text of a page.
func proseOf(t *testing.T, file treeFile) []prose {
	t.Helper()
	switch filepath.Ext(file.path) {
	case ".go":
		all, err := goProse(file.path, file.text)
		if err != nil {
			t.Fatal(err)
		}
		return all
	case ".md":
		return []prose{{text: pageProse(file.text), line: 1}}
	}
	return dashComments(file.text)
}

// goProse returns the comments of a Go file, and of a test also the names of its
// functions and cases.
func goProse(name, text string) ([]prose, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	inTest := strings.HasSuffix(name, "_test.go")
	var all []prose
	for _, group := range parsed.Comments {
		var lines []string
		for _, comment := range group.List {
			for line := range strings.SplitSeq(comment.Text, "\n") {
				line = strings.TrimPrefix(strings.TrimPrefix(line, "//"), "/*")
				lines = append(lines, strings.TrimSuffix(line, "*/"))
			}
		}
		all = append(all, prose{
			text:   strings.Join(lines, "\n"),
			line:   set.Position(group.Pos()).Line,
			inTest: inTest,
		})
	}
	if !inTest {
		return all, nil
	}
	addName := func(text string, at token.Pos) {
		all = append(all, prose{text: text, line: set.Position(at).Line})
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		if function, ok := node.(*ast.FuncDecl); ok && function.Recv == nil {
			addName(camelWords(function.Name.Name), function.Pos())
		}
		if literal := caseName(node); literal != nil {
			addName(strings.Trim(literal.Value, "`\""), literal.Pos())
		}
		return true
	})
	return all, nil
}

// caseName returns the name of a test case, if the node has one: the argument of t.Run,
// a field called name, a key of a map, or the first field of a row without field names.
func caseName(node ast.Node) *ast.BasicLit {
	var candidate ast.Expr
	switch n := node.(type) {
	case *ast.CallExpr:
		if method, ok := n.Fun.(*ast.SelectorExpr); ok && method.Sel.Name == "Run" && len(n.Args) == 2 {
			candidate = n.Args[0]
		}
	case *ast.KeyValueExpr:
		switch key := n.Key.(type) {
		case *ast.Ident:
			if key.Name == "name" {
				candidate = n.Value
			}
		case *ast.BasicLit:
			candidate = key
		}
	case *ast.CompositeLit:
		if len(n.Elts) > 1 && n.Type == nil {
			candidate = n.Elts[0]
		}
	}
	if literal, ok := candidate.(*ast.BasicLit); ok && literal.Kind == token.STRING {
		return literal
	}
	return nil
}

// camelWords returns the words of a Go name, in lower case.
func camelWords(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// dashComments returns the comments of Lua and SQL. Comments on consecutive lines are
// one text.
func dashComments(text string) []prose {
	var all []prose
	last := -1
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		code, comment, ok := strings.Cut(line, "--")
		if !ok || code != "" && !strings.HasSuffix(code, " ") && !strings.HasSuffix(code, "\t") {
			continue
		}
		if last == number-1 && strings.TrimSpace(code) == "" {
			all[len(all)-1].text += "\n" + comment
		} else {
			all = append(all, prose{text: comment, line: number})
		}
		last = number
	}
	return all
}

var (
	codeSpan = regexp.MustCompile("`[^`]*`")
	notSpace = regexp.MustCompile(`\S`)
)

// pageProse returns a page of Markdown without its code and headings. Its lines keep
// their numbers.
func pageProse(page string) string {
	lines := strings.Split(page, "\n")
	fenced := false
	for i, line := range lines {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if fence {
			fenced = !fenced
		}
		if fence || fenced || strings.HasPrefix(line, "#") {
			lines[i] = ""
		}
	}
	return codeSpan.ReplaceAllStringFunc(strings.Join(lines, "\n"), func(code string) string {
		return notSpace.ReplaceAllString(code, "-")
	})
}

func TestProse(t *testing.T) {
	t.Parallel()
	const goTest = `package p

// One
// two.
func TestNobodyWaits(t *testing.T) { /* three */
	tests := []struct{ name, text string }{{name: "four", text: "no"}, {"five", "no"}}
	t.Run("six", nil) // seven
	call("no", "no")
	_ = map[string]string{"eight": "no"}
}
`
	tests := []struct{ file, text, want string }{
		{"a_test.go", goTest,
			`[3 " One\n two."] [5 " three "] [7 " seven"] [5 "test nobody waits"] [6 "four"] [6 "five"] [7 "six"] [9 "eight"]`},
		{"a.go", goTest, `[3 " One\n two."] [5 " three "] [7 " seven"]`},
		{"a.sql", "-- one\n-- two\nSELECT 1 -- three\n-- four\nSELECT a--b;\n-- five",
			`[1 " one\n two"] [3 " three\n four"] [6 " five"]`},
		{"a.md", "# What it is\none `x\ny` two\n```\nthree\n```\nfour", `[1 "\none --\n-- two\n\n\n\nfour"]`},
	}
	for _, test := range tests {
		var got []string
		for _, p := range proseOf(t, treeFile{path: test.file, text: test.text}) {
			got = append(got, fmt.Sprintf("[%d %q]", p.line, p.text))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.file, strings.Join(got, " "), test.want)
		}
	}
}

// treeFile is a file of the tree.
type treeFile struct {
	path string // from the root, with slashes
	text string
}

// readTree returns the files of the tree whose names end like one of the extensions.
func readTree(t *testing.T, extensions ...string) []treeFile {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []treeFile
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != root && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !slices.Contains(extensions, filepath.Ext(name)) {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		files = append(files, treeFile{path: filepath.ToSlash(relative), text: string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, extension := range extensions {
		if !slices.ContainsFunc(files, func(f treeFile) bool { return filepath.Ext(f.path) == extension }) {
			t.Fatalf("found no file that ends with %s; is this the tree?", extension)
		}
	}
	return files
}
