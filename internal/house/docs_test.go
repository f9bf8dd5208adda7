package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// quoted matches a block of Go code in a page. The comment <!-- from FILE --> before it,
// if any, names the quoted file.
var quoted = regexp.MustCompile("(?ms)^(?:<!-- from (\\S+) -->\n)?```go\n(.*?)^```")

// TestPagesQuoteExistingCode checks that every block of code in docs/ with a source is in
// that file, word for word. In the page on how to add a projection, every block needs a
// source.
func TestPagesQuoteExistingCode(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range quoted.FindAllStringSubmatch(string(text), -1) {
			from := block[1]
			code := block[2]
			if from == "" {
				if strings.HasPrefix(filepath.Base(page), "how-to-add-a-projection") {
					t.Errorf("%s does not name the source of this block; add <!-- from FILE -->:\n%s",
						page, code)
				}
				continue
			}
			found++
			source, err := os.ReadFile(filepath.Join("../..", from))
			if err != nil {
				t.Errorf("%s: %v", page, err)
			} else if !strings.Contains(string(source), code) {
				t.Errorf("%s quotes this from %s, which does not contain it:\n%s", page, from, code)
			}
		}
	}
	if found < 8 {
		t.Errorf("found %d quotes, want at least 8; are these the pages?", found)
	}
}
