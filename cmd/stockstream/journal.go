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
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/projections"
)

func newJournal(config *Config) *cobra.Command {
	parent := newCommandGroup("journal", "List, detach and attach the journal's partitions")
	parent.AddCommand(newJournalPartitions(config), newJournalDetach(config), newJournalAttach(config))
	return parent
}

// readersOfJournal returns all readers of the journal with their checkpoints: the
// projections and, if there has been an audit, the audit. Events that the audit has not
// verified cannot be audited after they are detached.
func readersOfJournal(ctx context.Context, db postgres.Querier) ([]journal.ReaderPosition, error) {
	readers, err := journal.ReaderPositions(ctx, db, projections.Names(projections.BuiltIn())...)
	if err != nil {
		return nil, err
	}
	reader, audited, err := audit.Reader(ctx, db, events.MainPool.Name())
	if audited {
		readers = append(readers, reader)
	}
	return readers, err
}

func newJournalPartitions(config *Config) *cobra.Command {
	var form output
	command := &cobra.Command{
		Use:   "parts",
		Short: "List the journal's partitions, with the readers that still need each",
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
			reports, err := journal.DescribePartitions(cmd.Context(), conn, config.pool().Name(), readers)
			if err != nil {
				return err
			}
			if form == outputJSON {
				return printPartitionsJSON(cmd.OutOrStdout(), reports)
			}
			return printPartitions(cmd.OutOrStdout(), reports)
		},
	}
	addOutput(command, &form, "table, or json, one partition a line")
	return command
}

func printPartitions(out io.Writer, reports []journal.PartitionReport) error {
	table := newTable(out)
	fmt.Fprintln(table, "PART\tSTATE\tFROM\tTO\tEVENTS\tMIB\tFIRST\tLAST\tNEEDED BY")
	for _, r := range reports {
		neededBy := printable(orDash(strings.Join(namesOf(r.NeededBy), ", ")))
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%.1f\t%s\t%s\t%s\n",
			r.Name, r.State, r.First, r.Last, r.Events, float64(r.Bytes)/(1<<20),
			timeOrDash(r.FirstAt), timeOrDash(r.LastAt), neededBy)
	}
	return table.Flush()
}

func namesOf(readers []journal.ReaderPosition) []string {
	names := make([]string, len(readers))
	for i, reader := range readers {
		names[i] = reader.Name
	}
	return names
}

// partitionJSON is a partition as `parts -o json` prints it.
type partitionJSON struct {
	Pool     string     `json:"pool"`
	Part     string     `json:"part"`
	State    string     `json:"state"` // attached, detached, or gone (detached, and its table dropped)
	FirstSeq int64      `json:"first_seq"`
	LastSeq  int64      `json:"last_seq"`
	Events   int64      `json:"events"`
	Bytes    int64      `json:"bytes"`
	FirstAt  *time.Time `json:"first_at,omitempty"`
	LastAt   *time.Time `json:"last_at,omitempty"`
	NeededBy []string   `json:"needed_by"`
}

func printPartitionsJSON(out io.Writer, reports []journal.PartitionReport) error {
	rows := make([]partitionJSON, len(reports))
	for i, r := range reports {
		rows[i] = partitionJSON{
			Pool:     r.Pool,
			Part:     r.Name,
			State:    string(r.State),
			FirstSeq: r.First,
			LastSeq:  r.Last,
			Events:   r.Events,
			Bytes:    r.Bytes,
			NeededBy: namesOf(r.NeededBy),
		}
		if !r.FirstAt.IsZero() {
			first := r.FirstAt.UTC()
			last := r.LastAt.UTC()
			rows[i].FirstAt = &first
			rows[i].LastAt = &last
		}
	}
	return printLines(out, rows)
}

func newJournalAttach(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "attach PART",
		Short: "Attach a detached partition again, after checking that its rows are unchanged",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := connectToLatestSchema(cmd.Context(), config)
			if err != nil {
				return err
			}
			defer conn.Close(cmd.Context())
			partition, err := journal.AttachPartition(cmd.Context(), conn, args[0])
			if errors.Is(err, journal.ErrPartitionGone) {
				return fmt.Errorf("%w\n%s", err, restoreCommand(args[0]))
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(),
				"%s is attached again: seq %d to %d, with the same %d events as when it was detached\n",
				partition.Name, partition.First, partition.Last, partition.Events)
			return nil
		},
	}
}

// restoreCommand returns the command that restores a partition's table from its dump. It
// names the URL's variable, because the URL itself may contain a password.
func restoreCommand(partition string) string {
	return fmt.Sprintf("  pg_restore --dbname=\"$STOCKSTREAM_DATABASE_URL\" %s.dump", partition)
}
