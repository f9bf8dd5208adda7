package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// detachFlags select the partitions to detach.
type detachFlags struct {
	before    int64
	olderThan time.Duration
	confirmed bool
	dryRun    bool
}

func newJournalDetach(config *Config) *cobra.Command {
	var flags detachFlags
	detach := &cobra.Command{
		Use:   "detach {--before SEQ | --older-than DURATION}",
		Short: "Detach old partitions from the journal, to archive them",
		Long: "Detach the partitions of the journal whose events are all older than the given seq or age. They stay in the\n" +
			"database as tables of their own. While a partition is detached, every replay of the whole journal is refused:\n" +
			"to rebuild or add a projection, to rebuild Redis, to run a full audit.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (flags.before > 0) == (flags.olderThan > 0) {
				return errors.New("choose the partitions to detach with either --before SEQ or --older-than DURATION")
			}
			return detachPartitions(cmd, config, flags)
		},
	}
	detach.Flags().Int64Var(&flags.before, "before", 0,
		"detach the partitions whose events all have a lower seq")
	detach.Flags().DurationVar(&flags.olderThan, "older-than", 0,
		"detach the partitions whose events are all older, such as 2160h")
	detach.Flags().BoolVar(&flags.confirmed, "yes", false, "confirm that the partitions are to be detached")
	detach.Flags().BoolVar(&flags.dryRun, "dry-run", false,
		"print the partitions that would be detached, or why it would be refused")
	return detach
}

func detachPartitions(cmd *cobra.Command, config *Config, flags detachFlags) error {
	ctx := cmd.Context()
	out := cmd.OutOrStdout()
	conn, err := connectToLatestSchema(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	client, err := redisClient(config)
	if err != nil {
		return err
	}
	defer client.Close()
	stream, err := journal.GroupPosition(ctx, client, config.pool())
	if err != nil {
		return err
	}
	if err := checkNoRebuildRuns(ctx, conn); err != nil {
		return err
	}
	readers, err := readersOfJournal(ctx, conn)
	if err != nil {
		return err
	}
	reports, err := journal.DescribePartitions(ctx, conn, config.pool().Name(), readers)
	if err != nil {
		return err
	}
	chosen := flags.choose(reports, time.Now())
	if len(chosen) == 0 {
		fmt.Fprintln(out, "no partition matches; `stockstream journal parts` lists them")
		return nil
	}
	for _, partition := range chosen {
		if err := journal.CheckDetachable(partition.Partition, append(readers, stream)); err != nil {
			return err
		}
	}
	if err := printPartitions(out, chosen); err != nil {
		return err
	}
	if flags.dryRun {
		fmt.Fprintln(out, "these partitions would be detached")
		return nil
	}
	if !flags.confirmed {
		return errors.New("until these partitions are attached again, no projection can be rebuilt or added, " +
			"and Redis cannot be restored; to detach them, add --yes")
	}
	names := projections.Names(projections.BuiltIn())
	for _, partition := range chosen {
		_, err := journal.DetachPartition(ctx, conn, partition.Partition, stream, names...)
		if err != nil {
			return err
		}
		if err := printDetached(cmd, out, conn, partition.Name); err != nil {
			return err
		}
	}
	return nil
}

// checkNoRebuildRuns fails while a rebuild runs, since a rebuild reads the whole journal
// and its checkpoint is not among those of the readers. A rebuild that starts after this
// check finds the partition missing and fails with a clear error.
func checkNoRebuildRuns(ctx context.Context, conn *pgx.Conn) error {
	runs, err := rebuild.List(ctx, conn, 1)
	if err != nil {
		return err
	}
	if len(runs) > 0 && runs[0].State == rebuild.Running {
		return fmt.Errorf("%w: a rebuild of %s runs; detach after it has ended",
			journal.ErrPartitionNeeded, strings.Join(runs[0].Projections, ", "))
	}
	return nil
}

// choose returns the attached partitions that the flags select, oldest first. It never
// returns the newest partition, and it stops at the first partition that contains an
// event to keep.
func (f detachFlags) choose(reports []journal.PartitionReport, now time.Time) []journal.PartitionReport {
	var chosen []journal.PartitionReport
	for _, r := range reports[:max(0, len(reports)-1)] {
		if r.State != journal.PartitionAttached {
			continue
		}
		tooHigh := f.before > 0 && r.Last >= f.before
		tooYoung := f.olderThan > 0 && (r.LastAt.IsZero() || now.Sub(r.LastAt) < f.olderThan)
		if tooHigh || tooYoung {
			break
		}
		chosen = append(chosen, r)
	}
	return chosen
}

// printDetached prints the commands that archive a detached partition, and those that
// attach it again.
func printDetached(cmd *cobra.Command, out io.Writer, conn *pgx.Conn, partition string) error {
	var schema string
	if err := conn.QueryRow(cmd.Context(), `SELECT current_schema()`).Scan(&schema); err != nil {
		return fmt.Errorf("read the schema's name: %w", err)
	}
	fmt.Fprintf(out, `%[1]s is detached; it is now a table of its own. To archive it:
  pg_dump --format=custom --table=%[2]s.%[1]s --file=%[1]s.dump "$STOCKSTREAM_DATABASE_URL"
  psql "$STOCKSTREAM_DATABASE_URL" -c 'DROP TABLE %[2]s.%[1]s'
To attach it again (the first command only if the table was dropped):
%[3]s
  stockstream journal attach %[1]s
`, partition, schema, restoreCommand(partition))
	return nil
}
