package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

const (
	settingsPage   = "../../docs/settings.md"
	settingsHeader = "| variable | flag | default | what it sets |\n|---|---|---|---|\n"
)

// settingsTable returns the table of docs/settings.md, made from the flags.
func settingsTable() string {
	config := defaultConfig()
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.addFlags(flags)
	flags.SortFlags = false
	var table strings.Builder
	table.WriteString(settingsHeader)
	flags.VisitAll(func(f *pflag.Flag) {
		value := strings.Trim(f.DefValue, "[]")
		fmt.Fprintf(&table, "| `%s` | `--%s` | `%s` | %s |\n",
			environmentName(f.Name), f.Name, value, f.Usage)
	})
	return table.String()
}

// TestSettingsPageMatchesFlags requires that docs/settings.md shows exactly the flags,
// their defaults and their help texts. Run it with -update to write today's table into
// the page.
func TestSettingsPageMatchesFlags(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(settingsPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), settingsHeader)
	if !found {
		t.Fatalf("docs/settings.md has no table with the header\n%s", settingsHeader)
	}
	shown, after, _ := strings.Cut(rest, "\n\n")
	want := settingsTable()
	if settingsHeader+shown+"\n" == want {
		return
	}
	if !*update {
		t.Fatalf("docs/settings.md does not show the settings as they are; run this test with -update. Want:\n%s", want)
	}
	if err := os.WriteFile(settingsPage, []byte(before+want+"\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
