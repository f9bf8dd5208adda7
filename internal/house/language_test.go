package house

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A habit is a turn of phrase that makes a reader decode a comment, and that comes back
// easily.
type habit struct {
	pattern  *regexp.Regexp // its first group, or the whole of it, is the phrase
	instead  string
	sentence bool // the pattern begins a sentence, and a question may begin like that
	tests    bool // it is a habit only in the comments of tests
}

var habits = []habit{
	{
		pattern: regexp.MustCompile(`(?i)\banew\b`),
		instead: "say again, or name the thing that is rebuilt",
	},
	{
		pattern: regexp.MustCompile(`(?i)\b(?:befalls?|befell|befallen)\b`),
		instead: "say what happens to it, or name the cause",
	},
	{
		pattern: regexp.MustCompile(`(?i)\b(?:somebody|nobody|whoever)\b`),
		instead: "name the caller, the client, the process, the operator",
	},
	{
		pattern: regexp.MustCompile(`(?i)\btaken\s+for\b`),
		instead: "say that it counts as something, or is treated like it",
	},
	{
		pattern: regexp.MustCompile(`(?i)\bholds\s+that\b`),
		instead: "write checks that, or requires: a hold is a reservation here",
		tests:   true,
	},
	{
		pattern:  regexp.MustCompile(sentenceStart + `((?:What|Who|Whatever)\s+[[:alpha:]]+)`),
		instead:  "begin with the name of the thing",
		sentence: true,
	},
}

// sentenceStart matches the place before a sentence: the beginning of the text or of a
// paragraph, the end of another sentence, or the mark of a list.
const sentenceStart = `(?:^\s*|[.!?:;]["')*]*\s+|\n[ \t]*\n\s*|(?:^|\n)[ \t]*(?:[-*]|[0-9]+\.)[ \t]+)`

var sentenceEnd = regexp.MustCompile(`[.!?](?:["')*]*\s|["')*]*$)|\n[ \t]*\n`)

// found is a habit in a text.
type found struct {
	at      int // the byte of the text at which it begins
	line    int // from 0, within the text
	phrase  string
	instead string
}

// findHabits returns the habits in a text, in order. inTest says that the text is a
// comment of a test.
func findHabits(text string, inTest bool) []found {
	var all []found
	for _, h := range habits {
		if h.tests && !inTest {
			continue
		}
		for _, at := range h.pattern.FindAllStringSubmatchIndex(text, -1) {
			begin, end := at[len(at)-2], at[len(at)-1]
			if h.sentence && isQuestion(text[begin:]) {
				continue
			}
			all = append(all, found{
				at:      begin,
				line:    strings.Count(text[:begin], "\n"),
				phrase:  strings.Join(strings.Fields(text[begin:end]), " "),
				instead: h.instead,
			})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.at, b.at) })
	return all
}

// isQuestion reports whether the first sentence of a text ends with a question mark.
func isQuestion(text string) bool {
	end := sentenceEnd.FindStringIndex(text)
	return end != nil && text[end[0]] == '?'
}

func TestFindHabits(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text   string
		inTest bool
		want   []string // the phrases, in order
	}{
		{text: "A renewed lease. Newer events follow."},
		{text: "checkStock checks what every reader relies on."},
		{text: "What is a hold? It sets units aside."},
		{text: "It fails.\nWhat now? Try again."},
		{text: "See What's New."},
		{text: "Whose stock it is, and which hold."},
		{text: "mistaken for a hold"},
		{text: "It takes a lease, and it is taken. For a rebuild that is enough."},
		{text: "The counter holds that many units."},
		{text: "It holds the lease.", inTest: true},

		{text: "The keys are written anew.", want: []string{"anew"}},
		{text: "the log that befell Redis", want: []string{"befell"}},
		{text: "What befalls a batch.", want: []string{"What befalls", "befalls"}},
		{text: "Nobody reads it, and somebody\nwrites it.", want: []string{"Nobody", "somebody"}},
		{text: "It wakes whoever waits.", want: []string{"whoever"}},
		{text: "A lost session is taken\nfor a lost lease.", want: []string{"taken for"}},
		{text: "TestX holds that nothing is lost.", inTest: true, want: []string{"holds that"}},
		{text: "What was read is kept.", want: []string{"What was"}},
		{text: "It returns the page. What comes later is left out.", want: []string{"What comes"}},
		{text: "It returns the page.\nWho waits for it is woken.", want: []string{"Who waits"}},
		{text: "It is kept. Whatever it cannot drop, the next run does.", want: []string{"Whatever it"}},
		{text: "One paragraph\n\nWhat follows is another", want: []string{"What follows"}},
		{text: "Two:\n- What is live moves on.\n2. Who has left.", want: []string{"What is", "Who has"}},
		{text: "(It ends.) What is left? That is asked. What is gone is gone.", want: []string{"What is"}},
	}
	for _, test := range tests {
		var got []string
		for _, f := range findHabits(test.text, test.inTest) {
			got = append(got, f.phrase)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q: found %q, want %q", test.text, got, test.want)
		}
	}
	lines := findHabits("It waits.\nIt is made\nanew. What is left\nstays.", false)
	if len(lines) != 2 || lines[0].line != 2 || lines[1].line != 2 {
		t.Errorf("got %+v, want both in line 2", lines)
	}
}

// allowedPhrase is a use of a phrase that no reader has to decode.
type allowedPhrase struct {
	file   string
	phrase string // in lower case
	reason string
}

// Keep this list short: most phrases are quicker to reword than to excuse.
var allowedPhrases = []allowedPhrase{
	{"cmd/stockstream/audit_load_test.go", "holds that", "the plural of the noun hold"},
	{"cmd/stockstream/kill_test.go", "holds that", "the plural of the noun hold"},
}

// TestCommentsArePlainEnglish looks for habits in the comments of Go, Lua and SQL, in
// the names of tests, and in the Markdown pages.
func TestCommentsArePlainEnglish(t *testing.T) {
	t.Parallel()
	used := make([]bool, len(allowedPhrases))
	files := readTree(t, ".go", ".lua", ".sql", ".md")
	for _, file := range files {
		for _, p := range proseOf(t, file) {
			for _, f := range findHabits(p.text, p.inTest) {
				allowed := slices.IndexFunc(allowedPhrases, func(a allowedPhrase) bool {
					return a.file == file.path && a.phrase == strings.ToLower(f.phrase)
				})
				if allowed < 0 {
					t.Errorf("%s:%d: %q: %s", file.path, p.line+f.line, f.phrase, f.instead)
				} else {
					used[allowed] = true
				}
			}
		}
	}
	for i, a := range allowedPhrases {
		if !used[i] {
			t.Errorf("allowedPhrases lists %q in %s (%s), which is not there any more",
				a.phrase, a.file, a.reason)
		}
	}
}
