package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// quoted is a block of code in a page, and the file that it is from where the page says so: <!-- from FILE -->.
var quoted = regexp.MustCompile("(?ms)^(?:<!-- from (\\S+) -->\n)?```go\n(.*?)^```")

// TestQuotes holds that what the pages quote from the tree is there, word for word.
func TestQuotes(t *testing.T) {
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
			from, code := block[1], block[2]
			if from == "" {
				if strings.HasPrefix(filepath.Base(page), "how-to-add-a-projection") {
					t.Errorf("%s does not say from where it has\n%s", page, code)
				}
				continue
			}
			found++
			source, err := os.ReadFile(filepath.Join("../..", from))
			if err != nil {
				t.Errorf("%s: %v", page, err)
			} else if !strings.Contains(string(source), code) {
				t.Errorf("%s quotes from %s what is not there:\n%s", page, from, code)
			}
		}
	}
	if found < 8 {
		t.Errorf("found %d quotes; are these the pages?", found)
	}
}
