package commandstest

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// prelude is the script that others begin with. It has no header of its own.
const prelude = "prelude"

// ReadScripts returns the Lua scripts in the folder lua of files, by name without ".lua".
// It fails unless there are as many as given.
func ReadScripts(t *testing.T, files fs.FS, count int) map[string]string {
	t.Helper()
	entries, err := fs.ReadDir(files, "lua")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != count {
		t.Fatalf("got %d scripts, want %d", len(entries), count)
	}
	texts := map[string]string{}
	for _, entry := range entries {
		text, err := fs.ReadFile(files, "lua/"+entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimSuffix(entry.Name(), ".lua")] = string(text)
	}
	return texts
}

// CheckScriptHeaders checks that the header of every script describes its keys, its
// arguments, its answers and what it keeps true, and that no script builds a key. texts
// has the scripts by name.
func CheckScriptHeaders(t *testing.T, texts map[string]string) {
	t.Helper()
	for name, text := range texts {
		if name == prelude {
			continue
		}
		header := headerOf(text)
		for _, part := range []string{"KEYS ", "ARGV ", "Answers ", "Keeps "} {
			if !strings.Contains(header, "-- "+part) {
				t.Errorf("%s.lua: got a header without %q, want one", name, strings.TrimSpace(part))
			}
		}
		body := strings.TrimPrefix(text, header)
		for _, prefix := range []string{"'stock:'", "'hold:'"} {
			if strings.Contains(body, prefix) {
				t.Errorf("%s.lua builds a key with %s, want every key passed in KEYS", name, prefix)
			}
		}
	}
}

// statusWord matches a status word at the places where a script answers one.
var statusWord = regexp.MustCompile(`(?:answer\(|refuse\(stock, |return \{|and |or )'([A-Z_]*[A-Z])'`)

// CheckStatusWords checks that the scripts answer exactly the status words that Go knows,
// and that each script's header names the words it answers. alwaysAnswered has the words
// that a script builds, or takes from an argument, and that the text therefore does not
// show.
func CheckStatusWords(t *testing.T, texts map[string]string, known, alwaysAnswered []string) {
	t.Helper()
	answered := slices.Clone(alwaysAnswered)
	for name, text := range texts {
		for _, match := range statusWord.FindAllStringSubmatch(text, -1) {
			status := match[1]
			answered = append(answered, status)
			if !slices.Contains(known, status) {
				t.Errorf("%s.lua answers %s, which Go does not know", name, status)
			}
			if name != prelude && !strings.Contains(headerOf(text), status) {
				t.Errorf("%s.lua answers %s, which its header does not name", name, status)
			}
		}
	}
	for _, status := range known {
		if !slices.Contains(answered, status) {
			t.Errorf("Go knows the status %s, which no script answers", status)
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
