// Package house holds the rules of the tree itself, as tests.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stockstream/stockstream/"

// arrows says what each package may import of ours. docs/ARCHITECTURE.md draws them.
var arrows = map[string][]string{
	"events":               {"internal/wait", "internal/plainjson"},
	"migrations":           {},
	"commands":             {"events", "internal/wait"},
	"deadletters":          {"events"},
	"projections":          {"events", "deadletters"},
	"projections/rebuild":  {"events", "deadletters", "projections", "internal/wait"},
	"sagas":                {"events", "commands", "deadletters"},
	"audit":                {"events", "deadletters", "projections", "internal/wait"},
	"httpapi":              {"events", "commands", "deadletters", "projections", "projections/rebuild", "sagas", "audit", "migrations", "internal/plainjson"},
	"cmd/stockstream":      {"events", "commands", "deadletters", "projections", "projections/rebuild", "sagas", "audit", "httpapi", "migrations", "internal/local", "internal/wait"},
	"cmd/bench":            {"events", "commands", "deadletters", "projections", "projections/rebuild", "audit", "migrations", "internal/local"},
	"internal/local":       {},
	"internal/plainjson":   {},
	"internal/testenv":     {"internal/local", "migrations"},
	"internal/testsummary": {},
	"internal/wait":        {},
	"internal/house":       {},

	"projections/projectiontest": {"events", "projections", "projections/rebuild", "internal/testenv"}, // for tests; nothing that ships imports it
}

// forTests is what any test may import beside.
var forTests = []string{"internal/testenv", "internal/local", "migrations", "projections/projectiontest"}

type goFile struct {
	path   string // from the root, with slashes
	text   string
	parsed *ast.File
}

func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// goFiles returns every Go file of the tree.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []goFile
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != root && strings.HasPrefix(entry.Name(), ".") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		relative, relErr := filepath.Rel(root, name)
		if err != nil || relErr != nil {
			t.Fatal(err, relErr)
		}
		files = append(files, goFile{path: filepath.ToSlash(relative), text: string(text), parsed: parsed})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("found %d Go files; is this the tree?", len(files))
	}
	return files
}

// TestArrows holds who may import whom.
func TestArrows(t *testing.T) {
	t.Parallel()
	for _, file := range goFiles(t) {
		folder := path.Dir(file.path)
		allowed, known := arrows[folder]
		if !known {
			t.Errorf("%s: the folder %s has no line in arrows: say what it may import", file.path, folder)
			continue
		}
		for _, spec := range file.parsed.Imports {
			imported, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			if !ours || imported == folder || slices.Contains(allowed, imported) || file.isTest() && slices.Contains(forTests, imported) {
				continue
			}
			t.Errorf("%s imports %s, which %s may not", file.path, imported, folder)
		}
	}
}

// TestFilesAreShort holds that a file has one concept, and fits into a head.
func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	for _, file := range goFiles(t) {
		if lines := strings.Count(file.text, "\n"); lines > 400 {
			t.Errorf("%s has %d lines; past 400 a file wants a better cut", file.path, lines)
		}
	}
}

// TestTestsWaitOnSignals holds that no test sleeps, and that none can be skipped.
func TestTestsWaitOnSignals(t *testing.T) {
	t.Parallel()
	for _, file := range goFiles(t) {
		if !file.isTest() {
			continue
		}
		ast.Inspect(file.parsed, func(node ast.Node) bool {
			call, isCall := node.(*ast.SelectorExpr)
			if !isCall {
				return true
			}
			switch receiver, _ := call.X.(*ast.Ident); {
			case receiver != nil && receiver.Name == "time" && call.Sel.Name == "Sleep":
				t.Errorf("%s sleeps; wait for what must come, with testenv.Eventually if need be", file.path)
			case strings.HasPrefix(call.Sel.Name, "Skip") && receiver != nil && receiver.Name == "t":
				t.Errorf("%s skips a test; a test that did not run has shown nothing", file.path)
			}
			return true
		})
	}
}
