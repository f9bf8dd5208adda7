package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// output is a command's output format: a table for people, or json for other programs.
type output string

const (
	outputTable output = "table"
	outputJSON  output = "json"
)

// addOutput adds the flag --output to a command. usage explains what the JSON contains.
func addOutput(cmd *cobra.Command, form *output, usage string) {
	*form = outputTable
	cmd.Flags().VarP(form, "output", "o", usage)
}

// String implements pflag.Value.
func (o *output) String() string { return string(*o) }

// Set implements pflag.Value. It refuses every value except table and json.
func (o *output) Set(value string) error {
	if value != string(outputTable) && value != string(outputJSON) {
		return errors.New("want table or json")
	}
	*o = output(value)
	return nil
}

// Type implements pflag.Value.
func (*output) Type() string { return "string" }

// newTable returns a writer that aligns tab-separated columns when it is flushed.
func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

// printLines prints each value as one line of JSON.
func printLines[T any](out io.Writer, values []T) error {
	for i := range values {
		raw, err := json.Marshal(values[i])
		if err != nil {
			return err
		}
		if err := printJSON(out, raw); err != nil {
			return err
		}
	}
	return nil
}

// printDocument prints one value as indented JSON.
func printDocument(out io.Writer, value any) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return printJSON(out, raw)
}

// printJSON prints JSON and a line break. It escapes DEL and the control characters from
// U+0080 to U+009F, which JSON allows in strings: some terminals obey them.
func printJSON(out io.Writer, raw []byte) error {
	line := make([]byte, 0, len(raw)+1)
	for len(raw) > 0 {
		r, size := utf8.DecodeRune(raw)
		if r >= 0x7f && r <= 0x9f {
			line = fmt.Appendf(line, `\u%04x`, r)
		} else {
			line = append(line, raw[:size]...)
		}
		raw = raw[size:]
	}
	_, err := out.Write(append(line, '\n'))
	return err
}

// printable escapes all characters that are not visible, as \x1b is written for ESC.
// Stored text may come from buyers. It must not control an operator's terminal, nor end
// the cell of a table.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return s
	}
	var escaped strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			escaped.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRune(r)
		escaped.WriteString(quoted[1 : len(quoted)-1])
	}
	return escaped.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func seqOrDash(seq int64) string {
	if seq == 0 {
		return "-"
	}
	return fmt.Sprint(seq)
}

func timeOrDash(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
