package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"
)

// packedMax is how many keyed fields of a struct literal may stand on one line.
const packedMax = 3

// packedLiterals returns the lines of struct literals with more than packedMax keyed
// fields of which two stand on one line.
func packedLiterals(fset *token.FileSet, file *ast.File) []int {
	var lines []int
	ast.Inspect(file, func(node ast.Node) bool {
		literal, isLiteral := node.(*ast.CompositeLit)
		if !isLiteral || len(literal.Elts) <= packedMax {
			return true
		}
		previous := 0
		for _, element := range literal.Elts {
			field, isKeyed := element.(*ast.KeyValueExpr)
			if !isKeyed {
				return true
			}
			if _, isName := field.Key.(*ast.Ident); !isName {
				return true // the key of a map
			}
			line := fset.Position(field.Pos()).Line
			if line == previous {
				lines = append(lines, fset.Position(literal.Pos()).Line)
				return true
			}
			previous = line
		}
		return true
	})
	return lines
}

// TestLiteralsHaveOneFieldPerLine checks every struct literal with more than three keyed
// fields.
func TestLiteralsHaveOneFieldPerLine(t *testing.T) {
	t.Parallel()
	for _, file := range goFiles(t) {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, file.path, file.text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range packedLiterals(fset, parsed) {
			t.Errorf("%s:%d: this literal has more than %d fields; put each on a line of its own",
				file.path, line, packedMax)
		}
	}
}

// TestFindPackedLiterals checks the finder itself.
func TestFindPackedLiterals(t *testing.T) {
	t.Parallel()
	const source = `package p

var (
	three  = T{A: 1, B: 2, C: 3}
	packed = T{A: 1, B: 2,
		C: 3, D: 4}
	onePerLine = T{
		A: 1,
		B: 2,
		C: 3,
		D: 4,
	}
	list = []int{1, 2, 3, 4}
	byName = map[string]int{"a": 1, "b": 2, "c": 3, "d": 4}
)
`
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := packedLiterals(fset, parsed); len(got) != 1 || got[0] != 5 {
		t.Errorf("got lines %v, want line 5 alone", got)
	}
}
