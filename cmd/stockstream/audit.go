package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/projections"
)

func newAudit(config *Config) *cobra.Command {
	var (
		full    bool
		form    output
		timeout time.Duration
	)
	command := &cobra.Command{
		Use:   "audit",
		Short: "Compare Redis and the read tables with the journal; exits 1 on any difference",
		Long: "Compute from the journal what Redis, the stream and the read tables should contain, and compare them key by\n" +
			"key, while the service runs. An audit continues from the last one that found no difference. With --full, it\n" +
			"starts at the first event and also finds keys and rows that no event explains.\n\n" +
			"It exits 0 only if everything agrees. A stock counter that was set by hand is listed as pending, and does not\n" +
			"count as a difference. A row that waits behind a dead letter is listed as parked, and does count.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			report, err := runAudit(ctx, config, full)
			timedOut := ctx.Err() != nil && cmd.Context().Err() == nil
			if err != nil && timedOut {
				return fmt.Errorf("no audit was possible within %s (--timeout allows more): %w (%w)",
					timeout, ctx.Err(), err)
			}
			if err != nil {
				return fmt.Errorf("no audit was possible: %w", err)
			}
			if err := printAudit(cmd.OutOrStdout(), report, form); err != nil {
				return err
			}
			if !report.OK {
				return fmt.Errorf("audit: %s", report.Summary())
			}
			return nil
		},
	}
	addOutput(command, &form, "table or json")
	command.Flags().BoolVar(&full, "full", false,
		"start at the first event, and also look for keys and rows that no event explains")
	command.Flags().DurationVar(&timeout, "timeout", time.Hour, "the longest time that the audit may take")
	return command
}

func runAudit(ctx context.Context, config *Config, full bool) (*audit.Report, error) {
	client, err := redisClient(config)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	postgres, err := latestSchemaConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return audit.Run(ctx, audit.Config{
		Postgres: postgres,
		Redis:    client,
		Pool:     config.pool(),
	}, full)
}

func printAudit(out io.Writer, report *audit.Report, form output) error {
	if form == outputJSON {
		return printDocument(out, report)
	}
	c := report.Compared
	fmt.Fprintf(out, "%s: seq %d to %d, %d events, %d SKUs, %d holds, %d entries of the stream, in %s\n",
		report.Verdict, report.From, report.Seq,
		c.Events, c.SKUs, c.Holds, c.Entries, time.Duration(report.TookMs)*time.Millisecond)
	for _, text := range report.Incomplete {
		fmt.Fprintln(out, "incomplete:", printable(text))
	}
	table := newTable(out)
	printFindingsTable(table, "DIFFERENT", report.Differences)
	printFindingsTable(table, "PARKED", report.Parked)
	printFindingsTable(table, "PENDING", report.Pending)
	if err := table.Flush(); err != nil {
		return err
	}
	if len(report.Incomplete) == 0 {
		printRemedies(out, report)
	}
	return nil
}

// printRemedies prints the commands that rebuild the stores that differ: Redis and the
// read tables. The journal and the stream cannot be rebuilt. printAudit does not call it
// for an incomplete audit, because then this build itself may be at fault, and a rebuild
// would spread the fault.
func printRemedies(out io.Writer, report *audit.Report) {
	wrong := map[string]bool{}
	for _, d := range slices.Concat(report.Differences.First, report.Parked.First) {
		wrong[d.Store] = true
	}
	if wrong[audit.StoreRedis] {
		fmt.Fprintln(out, "`stockstream redis rebuild --yes` rebuilds Redis from the journal")
	}
	var tables []string
	for _, p := range projections.BuiltIn() {
		if wrong[p.Name] {
			tables = append(tables, p.Name)
		}
	}
	if len(tables) > 0 {
		const advice = "`stockstream projections rebuild %s --accept-differences` rebuilds the read tables " +
			"from the journal, including the events behind dead letters\n"
		fmt.Fprintf(out, advice, strings.Join(tables, " "))
	}
}

// printFindingsTable prints the findings of one class: differences, parked or pending.
func printFindingsTable(out io.Writer, heading string, found audit.Findings) {
	if found.Count == 0 {
		return
	}
	fmt.Fprintf(out, "%s\tKIND\tKEY\tSEQ\tEXPECTED\tFOUND\tBECAUSE\n", heading)
	for _, d := range found.First {
		fmt.Fprintf(out, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n",
			d.Store, d.Kind, printable(d.Key), d.Seq, printable(orDash(d.Expected)),
			printable(orDash(d.Found)), printable(orDash(d.Because)))
	}
	if rest := found.Count - len(found.First); rest > 0 {
		fmt.Fprintf(out, "and %d more\n", rest)
	}
}
