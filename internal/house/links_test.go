package house

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	markdownLink    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	markdownHeading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	codeBlock       = regexp.MustCompile("(?ms)^```.*?^```")
	notInAnchor     = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// TestLinksPointAtFiles checks every relative link of every Markdown page: the file must
// exist, and if the link names an anchor of a page, the page must have that heading.
func TestLinksPointAtFiles(t *testing.T) {
	t.Parallel()
	links := 0
	for _, page := range markdownPages(t) {
		text := readPage(t, page)
		for _, link := range markdownLink.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			target := link[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			checkLink(t, page, target)
		}
	}
	if links < 50 {
		t.Errorf("got %d links, want 50 or more: the pages were not found", links)
	}
}

func checkLink(t *testing.T, page, target string) {
	t.Helper()
	file, anchor, _ := strings.Cut(target, "#")
	linked := page
	if file != "" {
		linked = filepath.Join(filepath.Dir(page), filepath.FromSlash(file))
	}
	if _, err := os.Stat(linked); err != nil {
		t.Errorf("%s links to %s, which does not exist", page, target)
		return
	}
	if anchor != "" && !hasHeading(readPage(t, linked), anchor) {
		t.Errorf("%s links to %s, but the page has no such heading", page, target)
	}
}

// hasHeading reports whether a page has a heading whose anchor, as GitHub makes it, is
// the given one.
func hasHeading(text, anchor string) bool {
	for _, heading := range markdownHeading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		plain := notInAnchor.ReplaceAllString(strings.ToLower(heading[1]), "")
		if strings.ReplaceAll(plain, " ", "-") == anchor {
			return true
		}
	}
	return false
}

// markdownPages returns every Markdown file of the tree, outside of hidden folders.
func markdownPages(t *testing.T) []string {
	t.Helper()
	root := filepath.Join("..", "..")
	var pages []string
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != root && strings.HasPrefix(entry.Name(), "."):
			return filepath.SkipDir
		case !entry.IsDir() && filepath.Ext(name) == ".md":
			pages = append(pages, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
