// Package house has tests that check rules about the source tree.
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

// arrows lists the packages of this module that each package may import.
// docs/ARCHITECTURE.md has a drawing of them.
var arrows = map[string][]string{
	"events":         {},
	"events/stream":  {"events"},
	"events/journal": {"events", "events/stream"},

	"commands":          {"events", "events/stream"},
	"commands/recovery": {"commands", "events", "events/stream", "events/journal"},

	// for tests only
	"commands/commandstest": {
		"events", "events/stream", "events/journal", "internal/local", "internal/testenv",
	},
	"commands/recovery/recoverytest": {"commands", "commands/recovery", "events", "internal/testenv"},

	"deadletters":         {"events"},
	"projections":         {"events", "events/journal", "deadletters"},
	"projections/rebuild": {"events", "events/journal", "deadletters", "projections"},
	"sagas":               {"events", "events/stream", "events/journal", "commands", "deadletters"},
	"audit":               {"events", "events/stream", "events/journal", "deadletters", "projections"},

	"httpapi": {
		"events", "events/stream", "events/journal", "commands", "deadletters",
		"projections", "projections/rebuild", "sagas", "audit", "migrations",
	},
	"cmd/stockstream": {
		"events", "events/stream", "events/journal", "commands", "commands/recovery", "deadletters",
		"projections", "projections/rebuild", "sagas", "audit", "httpapi", "migrations", "internal/local",
	},
	"cmd/bench": {
		"events", "events/stream", "events/journal", "commands", "commands/recovery", "deadletters",
		"projections", "projections/rebuild", "audit", "migrations", "internal/local",
	},

	"migrations":           {},
	"internal/local":       {},
	"internal/logonce":     {},
	"internal/redisclient": {},
	"internal/postgres":    {},
	"internal/wait":        {},
	"internal/worker":      {},
	"internal/testenv":     {"internal/local", "migrations"},
	"internal/testsummary": {},
	"internal/house":       {},

	// for tests only
	"projections/projectiontest": {
		"events", "events/journal", "projections", "projections/rebuild", "internal/testenv",
	},
}

// technical lists the packages without knowledge of the shop. Every package may import
// them.
var technical = []string{
	"internal/logonce", "internal/postgres", "internal/redisclient", "internal/wait", "internal/worker",
}

// forTests lists the packages that every test may import in addition.
var forTests = []string{
	"internal/testenv",
	"internal/local",
	"migrations",
	"commands/commandstest",
	"commands/recovery",
	"commands/recovery/recoverytest",
	"projections/projectiontest",
}

type goFile struct {
	path   string // relative to the root, with slashes
	text   string
	parsed *ast.File
}

func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// goFiles parses and returns every Go file of the tree.
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
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		files = append(files, goFile{
			path:   filepath.ToSlash(relative),
			text:   string(text),
			parsed: parsed,
		})
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

// TestPackagesImportOnlyWhatTheyMay checks every import of a package of this module
// against arrows.
func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	for _, file := range goFiles(t) {
		folder := path.Dir(file.path)
		allowed, known := arrows[folder]
		if !known {
			t.Errorf("%s: the folder %s has no entry in arrows; add the packages that it may import",
				file.path, folder)
			continue
		}
		for _, spec := range file.parsed.Imports {
			imported, ours := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), module)
			inArrows := slices.Contains(allowed, imported) || slices.Contains(technical, imported)
			inTest := file.isTest() && slices.Contains(forTests, imported)
			if ours && imported != folder && !inArrows && !inTest {
				t.Errorf("%s imports %s, which arrows does not allow for %s", file.path, imported, folder)
			}
		}
	}
}

// TestTestsNeitherSleepNorSkip checks that no test calls time.Sleep or t.Skip.
func TestTestsNeitherSleepNorSkip(t *testing.T) {
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
			receiver, isName := call.X.(*ast.Ident)
			if !isName {
				return true
			}
			if receiver.Name == "time" && call.Sel.Name == "Sleep" {
				t.Errorf("%s sleeps; wait for the expected condition instead, for example with testenv.Eventually", file.path)
			}
			if receiver.Name == "t" && strings.HasPrefix(call.Sel.Name, "Skip") {
				t.Errorf("%s skips a test; a test that does not run checks nothing", file.path)
			}
			return true
		})
	}
}
