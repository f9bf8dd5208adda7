package recovery

import (
	"path"
	"regexp"
	"strings"
	"testing"
)

// These checks are a copy of those in commands/scripts_test.go, for the scripts of this
// package.

// TestScriptHeadersAreComplete checks that every script begins with its keys, its
// arguments, its answers and its invariant, and that it builds no key itself.
func TestScriptHeadersAreComplete(t *testing.T) {
	t.Parallel()
	for name, text := range scriptTexts(t) {
		header := headerOf(text)
		for _, section := range []string{"KEYS", "ARGV", "Answers", "Keeps"} {
			if !strings.Contains(header, "-- "+section+" ") {
				t.Errorf("%s.lua: got a header without %s, want one with it", name, section)
			}
		}
		body := strings.TrimPrefix(text, header)
		for _, prefix := range []string{"'stock:'", "'hold:'"} {
			if strings.Contains(body, prefix) {
				t.Errorf("%s.lua: got a key built from %s, want complete keys in KEYS", name, prefix)
			}
		}
	}
}

// TestStatusWordsAreKnown checks that the scripts answer exactly the status words that Go
// knows, and that each script's header names those that it answers.
func TestStatusWordsAreKnown(t *testing.T) {
	t.Parallel()
	known := map[string]bool{
		statusInitialised: true,
		statusExists:      true,
		statusClosed:      true,
		statusChanged:     true,
		statusReopened:    true,
		statusGone:        true,
		statusBegun:       true,
		statusOpen:        true,
		statusSuperseded:  true,
		statusPublished:   true,
		statusOtherServer: true,
		statusRaised:      true,
	}
	word := regexp.MustCompile(`(?:return \{|and |or )'([A-Z_]*[A-Z])'`)
	answered := map[string]bool{}
	for name, text := range scriptTexts(t) {
		header := headerOf(text)
		for _, match := range word.FindAllStringSubmatch(text, -1) {
			status := match[1]
			answered[status] = true
			if !known[status] {
				t.Errorf("%s.lua: got the answer %s, want one that Go knows", name, status)
			}
			if !strings.Contains(header, status) {
				t.Errorf("%s.lua: got the answer %s, want it in the header", name, status)
			}
		}
	}
	for status := range known {
		if !answered[status] {
			t.Errorf("status %s: got no script that answers it, want one", status)
		}
	}
}

// headerOf returns the comment that a script begins with.
func headerOf(text string) string {
	var header strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#!") {
			continue
		}
		if !strings.HasPrefix(line, "--") {
			break
		}
		header.WriteString(line)
	}
	return header.String()
}

// scriptTexts returns the text of every script by its name.
func scriptTexts(t *testing.T) map[string]string {
	t.Helper()
	entries, err := luaFiles.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 6 {
		t.Fatalf("scripts: got %d, want 6", len(entries))
	}
	texts := map[string]string{}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), path.Ext(entry.Name()))
		texts[name] = source(name)
	}
	return texts
}
