package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func newProjectionsRebuild(config *Config) *cobra.Command {
	var accept, all bool
	command := &cobra.Command{
		Use:   "rebuild NAME…",
		Short: "Rebuild read tables from the journal, compare them with the current ones, and swap them in",
		Long: "Rebuild read tables from the journal, while the current tables serve and are kept up to date. Then compare\n" +
			"the new tables with the current ones, and swap them in within one short transaction. If they differ, the\n" +
			"rebuild fails and changes nothing, unless --accept-differences is given. The replaced tables are kept until\n" +
			"`projections drop-old`. A reader that keeps a lock on a table delays its swap: the rebuild names the reader and\n" +
			"waits until it ends. The rebuild can be interrupted at any time without harm. Progress is shown as a bar\n" +
			"on a terminal, and as lines of JSON elsewhere.",
		RunE: func(cmd *cobra.Command, args []string) error {
			list := projections.BuiltIn()
			if all == (len(args) > 0) {
				return errors.New("name the projections to rebuild, or use --all")
			}
			if !all {
				var err error
				if list, err = projections.Named(args...); err != nil {
					return err
				}
			}
			settings, err := rebuildConfig(cmd.Context(), config, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			view := newRebuildView(cmd.OutOrStdout())
			settings.AcceptDifferences = accept
			settings.Accepting = view.accepted
			settings.Report = view.progress
			job, err := rebuild.Begin(cmd.Context(), settings, list...)
			if err != nil {
				return err
			}
			results, err := job.Run(cmd.Context())
			view.end(results, err)
			if differs := new(rebuild.DifferencesError); errors.As(err, &differs) {
				const advice = "If the new rows are right, run it again with --accept-differences"
				err = fmt.Errorf("%w; the rebuild changed nothing. %s", err, advice)
			}
			return err
		},
	}
	command.Flags().BoolVar(&accept, "accept-differences", false,
		"swap the new tables in even if they differ from the current ones")
	command.Flags().BoolVar(&all, "all", false, "rebuild all projections")
	return command
}

// rebuildView prints the progress and result of a rebuild: as a bar on a terminal, as
// lines of JSON elsewhere.
type rebuildView struct {
	out      io.Writer
	terminal bool
}

func newRebuildView(out io.Writer) *rebuildView {
	v := &rebuildView{out: out}
	if file, isFile := out.(*os.File); isFile {
		info, err := file.Stat()
		v.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return v
}

// progressLine is the line of JSON for a progress report.
type progressLine struct {
	Rebuild    int64        `json:"rebuild"`
	Step       rebuild.Step `json:"step"`
	Done       int64        `json:"done"`
	Total      int64        `json:"total"`
	Rate       int64        `json:"rate"` // events a second
	ETASeconds float64      `json:"eta_seconds"`
	Paused     bool         `json:"paused"`
	// WaitsFor is the session whose lock the swap waits for.
	WaitsFor *rebuild.LockHolder `json:"waits_for,omitempty"`
}

func (v *rebuildView) progress(p rebuild.Progress) {
	if v.terminal {
		fmt.Fprint(v.out, "\r"+bar(p)+"\x1b[K")
		return
	}
	v.line(progressLine{
		Rebuild:    p.Run,
		Step:       p.Step,
		Done:       p.Done,
		Total:      p.Total,
		Rate:       int64(p.Rate),
		ETASeconds: p.ETA.Round(100 * time.Millisecond).Seconds(),
		Paused:     p.Paused,
		WaitsFor:   p.WaitsFor,
	})
}

// acceptedLine is the line of JSON that precedes the swap of new tables that differ.
type acceptedLine struct {
	Accepted []rebuild.TableDifference `json:"accepted_differences"`
}

// accepted prints the accepted differences, before the new tables are swapped in.
func (v *rebuildView) accepted(differences []rebuild.TableDifference) {
	if !v.terminal {
		v.line(acceptedLine{Accepted: differences})
		return
	}
	fmt.Fprintln(v.out, "\naccepted:")
	printDifferences(v.out, differences)
}

const barWidth = 30

// bar returns a progress report as one line for a terminal.
func bar(p rebuild.Progress) string {
	filled := barWidth
	if p.Total > 0 {
		filled = int(barWidth * p.Done / p.Total)
	}
	text := fmt.Sprintf("%-10s [%s%s] %d of %d events, %.0f/s",
		p.Step, strings.Repeat("#", filled), strings.Repeat(".", barWidth-filled), p.Done, p.Total, p.Rate)
	if p.ETA > 0 {
		text += ", " + p.ETA.Round(time.Second).String() + " left"
	}
	if p.Paused {
		text += ", paused"
	}
	if p.WaitsFor != nil {
		text += ", waits for " + p.WaitsFor.Short()
	}
	return text
}

// resultLine is the last line of JSON: the result of a rebuild.
type resultLine struct {
	Results     []rebuild.Result          `json:"outcomes"`
	Differences []rebuild.TableDifference `json:"differences,omitempty"`
	Error       string                    `json:"error,omitempty"`
}

// end prints the result, and the differences if the rebuild failed because of them.
func (v *rebuildView) end(results []rebuild.Result, err error) {
	var differs *rebuild.DifferencesError
	errors.As(err, &differs)
	if !v.terminal {
		line := resultLine{Results: results}
		if results == nil {
			line.Results = []rebuild.Result{} // so that JSON has [] and not null
		}
		if differs != nil {
			line.Differences = differs.Differences
		}
		if err != nil {
			line.Error = err.Error()
		}
		v.line(line)
		return
	}
	fmt.Fprintln(v.out)
	const format = "%[1]s: the new tables serve from seq %[2]d on; " +
		"%[3]d dead letters resolved, %[4]d parked. " +
		"To swap the old tables back in: `stockstream projections restore-old %[1]s`. " +
		"To drop them: drop-old.\n"
	for _, r := range results {
		fmt.Fprintf(v.out, format, r.Projection, r.Seq, r.Resolved, r.Parked)
	}
	if differs != nil {
		printDifferences(v.out, differs.Differences)
	}
}

func (v *rebuildView) line(value any) {
	if raw, err := json.Marshal(value); err == nil {
		_ = printJSON(v.out, raw)
	}
}

// printDifferences prints each table's number of differences, and its first differing
// keys with both rows.
func printDifferences(out io.Writer, list []rebuild.TableDifference) {
	for _, d := range list {
		fmt.Fprintf(out, "%s\n", printable(d.String()))
		for _, row := range d.First {
			fmt.Fprintf(out, "  %s\n    live %s\n    new  %s\n",
				printable(row.Key), rowText(row.Live), rowText(row.New))
		}
	}
}

func rowText(row json.RawMessage) string {
	if row == nil || string(row) == "null" {
		return "-"
	}
	return printable(string(row))
}
