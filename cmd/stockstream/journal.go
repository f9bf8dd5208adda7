package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

func newJournal(config *Config) *cobra.Command {
	parent := newCommandGroup("journal", "Look after the parts of the journal: list, detach and attach them")
	parent.AddCommand(newJournalParts(config), newJournalDetach(config), newJournalAttach(config))
	return parent
}

// readersOfJournal returns everybody who has yet to read a part of the journal. What the audit has not verified could
// never be audited once it is detached.
func readersOfJournal(ctx context.Context, db events.Querier) ([]events.Reader, error) {
	readers, err := events.JournalReaders(ctx, db, projections.Names(projections.BuiltIn())...)
	if err != nil {
		return nil, err
	}
	reader, audited, err := audit.Reader(ctx, db, events.MainPool.Name())
	if audited {
		readers = append(readers, reader)
	}
	return readers, err
}

func newJournalParts(config *Config) *cobra.Command {
	var form output
	parts := &cobra.Command{
		Use:   "parts",
		Short: "List the parts of the journal, and who still has to read them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := connectToLatestSchema(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			readers, err := readersOfJournal(cmd.Context(), conn)
			if err != nil {
				return err
			}
			reports, err := events.DescribeParts(cmd.Context(), conn, readers)
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printPartitionsJSON(cmd.OutOrStdout(), reports)
			}
			return printPartitions(cmd.OutOrStdout(), reports)
		},
	}
	addOutput(parts, &form, "table, or json, one part a line")
	return parts
}

func printPartitions(out io.Writer, reports []events.PartReport) error {
	table := newTable(out)
	fmt.Fprintln(table, "PART\tSTATE\tFROM\tTO\tEVENTS\tMIB\tFIRST\tLAST\tNEEDED BY")
	for _, r := range reports {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%.1f\t%s\t%s\t%s\n", r.Name, r.State, r.First, r.Last, r.Events, float64(r.Bytes)/(1<<20),
			timeOrDash(r.FirstAt), timeOrDash(r.LastAt), orDash(strings.Join(namesOf(r.NeededBy), ", ")))
	}
	return table.Flush()
}

func namesOf(readers []events.Reader) []string {
	names := make([]string, len(readers))
	for i, reader := range readers {
		names[i] = reader.Name
	}
	return names
}

// partitionJSON is a part for other programs.
type partitionJSON struct {
	Part     string     `json:"part"`
	State    string     `json:"state"` // attached, detached, or gone from this database
	FirstSeq int64      `json:"first_seq"`
	LastSeq  int64      `json:"last_seq"`
	Events   int64      `json:"events"`
	Bytes    int64      `json:"bytes"`
	FirstAt  *time.Time `json:"first_at,omitempty"`
	LastAt   *time.Time `json:"last_at,omitempty"`
	NeededBy []string   `json:"needed_by"`
}

func printPartitionsJSON(out io.Writer, reports []events.PartReport) error {
	rows := make([]partitionJSON, len(reports))
	for i, r := range reports {
		rows[i] = partitionJSON{
			Part: r.Name, State: string(r.State), FirstSeq: r.First, LastSeq: r.Last, Events: r.Events, Bytes: r.Bytes, NeededBy: namesOf(r.NeededBy),
		}
		if !r.FirstAt.IsZero() {
			first, last := r.FirstAt.UTC(), r.LastAt.UTC()
			rows[i].FirstAt, rows[i].LastAt = &first, &last
		}
	}
	return printLines(out, rows)
}

func newJournalAttach(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "attach PART",
		Short: "Bring a detached part back into the journal, once its table is found to hold what was detached",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := connectToLatestSchema(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			part, err := events.AttachPart(cmd.Context(), conn, args[0])
			if errors.Is(err, events.ErrPartGone) {
				return fmt.Errorf("%w\n%s", err, restoreCommand(args[0]))
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is attached again: events %d to %d, the same %d as when it was detached\n", part.Name, part.First, part.Last, part.Events)
			return nil
		},
	}
}

// restoreCommand bring the table of a part back. The URL is not spelt out: it may hold a password.
func restoreCommand(part string) string {
	return fmt.Sprintf("  pg_restore --dbname=\"$STOCKSTREAM_DATABASE_URL\" %s.dump", part)
}
