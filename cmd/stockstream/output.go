package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

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
	encoder := json.NewEncoder(out)
	for i := range values {
		if err := encoder.Encode(values[i]); err != nil {
			return err
		}
	}
	return nil
}

// printDocument prints one value as indented JSON.
func printDocument(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
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
