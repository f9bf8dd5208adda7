package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// finding is the result of one check.
type finding struct {
	Name    string  `json:"name"`
	Verdict verdict `json:"verdict"`
	Found   string  `json:"found"`
	Advice  string  `json:"advice,omitempty"`
}

type verdict string

// The verdicts of a check. The command fails only if a finding is unsafe.
const (
	verdictOK      verdict = "ok"
	verdictUnknown verdict = "unknown" // the setting cannot be read; a managed service may refuse it
	verdictUnsafe  verdict = "UNSAFE"
)

func newDoctor(config *Config) *cobra.Command {
	var form output
	doctor := &cobra.Command{
		Use:   "doctor",
		Short: "Check Redis and Postgres for settings that can lose a sale; exits 1 on any that is unsafe",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := slices.Concat(
				examineRedis(cmd.Context(), config),
				examinePostgres(cmd.Context(), config),
				examinePool(cmd.Context(), config),
			)
			if err := printFindings(cmd.OutOrStdout(), findings, form); err != nil {
				return err
			}
			unsafe := 0
			for _, f := range findings {
				if f.Verdict == verdictUnsafe {
					unsafe++
				}
			}
			if unsafe > 0 {
				return fmt.Errorf("%d of %d findings are unsafe", unsafe, len(findings))
			}
			return nil
		},
	}
	addOutput(doctor, &form, "table or json")
	return doctor
}

func printFindings(out io.Writer, findings []finding, form output) error {
	if form == outputJSON {
		return printDocument(out, findings)
	}
	table := newTable(out)
	for _, f := range findings {
		found := strings.Join(strings.Fields(f.Found), " ") // errors of pgx contain line breaks and tabs
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", f.Verdict, f.Name, printable(found), f.Advice)
	}
	return table.Flush()
}

// newFinding returns a finding with the verdict ok, or unsafe and the advice.
func newFinding(name, found string, ok bool, advice string) finding {
	if ok {
		return finding{Name: name, Verdict: verdictOK, Found: found}
	}
	return finding{
		Name:    name,
		Verdict: verdictUnsafe,
		Found:   found,
		Advice:  advice,
	}
}

// unknownFinding returns a finding for a check that could not be made.
func unknownFinding(name string, err error) finding {
	return finding{Name: name, Verdict: verdictUnknown, Found: err.Error()}
}
