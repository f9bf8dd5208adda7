package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
)

// TestStoredTextCannotControlTheTerminal checks that escape sequences and line breaks in
// stored text are printed as visible characters, and that JSON keeps its values.
func TestStoredTextCannotControlTheTerminal(t *testing.T) {
	t.Parallel()
	const hostile = "a\x1b[2J\u009b31m\x7f\nID  SOURCE\u202e"
	letter := deadletters.Letter{
		SequenceKey: hostile,
		EventType:   events.Type(hostile),
		Error:       hostile,
		Raw:         []byte(`{"sku":"` + "\u009b31m\x7f" + `"}`),
		Metadata:    map[string]string{"k": hostile},
	}
	finding := audit.Difference{
		Key:      hostile,
		Expected: hostile,
		Found:    hostile,
		Because:  hostile,
	}
	for name, print := range map[string]func(*strings.Builder) error{
		"dead-letters list": func(out *strings.Builder) error {
			return printLetters(out, []deadletters.Letter{letter})
		},
		"dead-letters list -o json": func(out *strings.Builder) error {
			return printLettersJSON(out, []deadletters.Letter{letter})
		},
		"audit": func(out *strings.Builder) error {
			printFindingsTable(out, "STORE", audit.Findings{Count: 1, First: []audit.Difference{finding}})
			return nil
		},
		"a document": func(out *strings.Builder) error { return printDocument(out, letter) },
	} {
		var out strings.Builder
		if err := print(&out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, r := range out.String() {
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				t.Errorf("%s: printed the control character %q in %q", name, r, out.String())
			}
		}
		if strings.Contains(out.String(), "\nID  SOURCE") {
			t.Errorf("%s: stored text began a line: %q", name, out.String())
		}
	}
	var out strings.Builder
	var back map[string]string
	if err := printDocument(&out, map[string]string{"k": hostile}); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), &back); err != nil {
		t.Fatal(err)
	}
	if back["k"] != hostile {
		t.Errorf("as JSON: got %q, want %q", back["k"], hostile)
	}
}
