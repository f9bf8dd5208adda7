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

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func newProjections(config *Config) *cobra.Command {
	parent := newCommandGroup("projections", "Show the read tables, and rebuild them from the journal")
	parent.AddCommand(
		newProjectionsList(config),
		newProjectionsShow(config),
		newProjectionsRebuild(config),
		newProjectionsDropOld(config),
		newProjectionsRestoreOld(config),
		newProjectionsCancel(config),
	)
	return parent
}

func newProjectionsList(config *Config) *cobra.Command {
	var form output
	list := &cobra.Command{
		Use:   "list",
		Short: "List the projections, their lag, and the old tables that are kept",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printStatuses(cmd, config, form, printProjections, projections.BuiltIn()...)
		},
	}
	addOutput(list, &form, statusOutputUsage)
	return list
}

func newProjectionsShow(config *Config) *cobra.Command {
	var form output
	show := &cobra.Command{
		Use:   "show NAME…",
		Short: "Show projections with their last rebuild and the differences that it found",
		Args:  atLeastOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := projections.Named(args...)
			if err != nil {
				return err
			}
			return printStatuses(cmd, config, form, printProjection, list...)
		},
	}
	addOutput(show, &form, statusOutputUsage)
	return show
}

const statusOutputUsage = "table, or json with all fields, one projection a line"

func newProjectionsDropOld(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "drop-old NAME…",
		Short: "Drop the tables that a rebuild replaced; restore-old is not possible afterwards",
		Args:  atLeastOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			dropOld := func(settings rebuild.Config, p projections.Projection) error {
				if err := rebuild.DropOld(cmd.Context(), settings, p); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "the old tables of %s are dropped\n", p.Name)
				return nil
			}
			return forEachProjection(cmd, config, args, dropOld)
		},
	}
}

func newProjectionsRestoreOld(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "restore-old NAME…",
		Short: "Swap the old tables back in; the current ones become the old tables",
		Args:  atLeastOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			restoreOld := func(settings rebuild.Config, p projections.Projection) error {
				result, err := rebuild.RestoreOld(cmd.Context(), settings, p)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(),
					"%s serves its old tables again, which are at seq %d; it catches up from there\n",
					p.Name, result.Seq)
				return nil
			}
			return forEachProjection(cmd, config, args, restoreOld)
		},
	}
}

func newProjectionsCancel(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel",
		Short: "Cancel the running rebuild, whichever process runs it; the read tables stay as they are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd.Context(), config, func(conn *pgx.Conn) error {
				id, err := rebuild.Cancel(cmd.Context(), conn)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "rebuild %d swaps no more tables, and ends within a second; "+
					"if its process stands still, Postgres ends it within %s\n", id, worker.AbsenceMax)
				return nil
			})
		},
	}
}

// atLeastOneName requires one argument or more; projections.Named checks the names.
func atLeastOneName(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("name a projection; `stockstream projections list` shows them")
	}
	return nil
}

// forEachProjection checks the schema and then calls do with each named projection. It
// goes on after an error, and returns all errors.
func forEachProjection(
	cmd *cobra.Command, config *Config, names []string, do func(rebuild.Config, projections.Projection) error,
) error {
	list, err := projections.Named(names...)
	if err != nil {
		return err
	}
	settings, err := rebuildConfig(cmd.Context(), config, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	for _, p := range list {
		err = errors.Join(err, do(settings, p))
	}
	return err
}

// rebuildConfig returns the configuration of a rebuild. It fails unless the schema is at
// this build's version.
func rebuildConfig(ctx context.Context, config *Config, errOut io.Writer) (rebuild.Config, error) {
	postgres, err := latestSchemaConfig(ctx, config)
	return rebuild.Config{
		Postgres: postgres,
		Pool:     events.MainPool,
		Watched:  projections.BuiltIn(),
		Log:      config.logger(errOut),
	}, err
}

// printStatuses prints the status of projections as JSON, or with printTable.
func printStatuses(
	cmd *cobra.Command,
	config *Config,
	form output,
	printTable func(io.Writer, []rebuild.Status) error,
	list ...projections.Projection,
) error {
	return withConnection(cmd.Context(), config, func(conn *pgx.Conn) error {
		if err := migrations.Check(cmd.Context(), conn); err != nil {
			return err
		}
		all, err := rebuild.Describe(cmd.Context(), conn, events.MainPool.Name(), list...)
		if err != nil {
			return err
		}
		if form == outputJSON {
			return printLines(cmd.OutOrStdout(), all)
		}
		return printTable(cmd.OutOrStdout(), all)
	})
}

func printProjections(out io.Writer, all []rebuild.Status) error {
	table := newTable(out)
	fmt.Fprintln(table, "NAME\tCHECKPOINT\tLAG EVENTS\tLAG\tPARKED\tOLD TABLES\tREBUILD")
	for _, s := range all {
		old := "-"
		run := "-"
		if s.Old != nil {
			old = fmt.Sprintf("at %d, of %s", s.Old.Seq, s.Old.Replaced.Format(time.RFC3339))
		}
		if s.Run != nil {
			run = runText(s.Run)
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%d\t%s\t%s\n",
			s.Name, s.Checkpoint, s.LagEvents, lagText(s.LagSeconds), s.Parked, old, run)
	}
	return table.Flush()
}

// runText describes a rebuild in a few words, for a column of a table.
func runText(run *rebuild.RunRecord) string {
	switch run.State {
	case rebuild.Running:
		text := fmt.Sprintf("%d %s, %d of %d, %d/s", run.ID, run.Step, run.Done, run.Total, run.Rate)
		if run.ETASeconds > 0 {
			text += fmt.Sprintf(", %.0fs left", run.ETASeconds)
		}
		if run.WaitsFor != nil {
			text += ", waits for " + run.WaitsFor.Short()
		}
		return text
	case rebuild.Interrupted:
		return fmt.Sprintf("%d interrupted; start it again", run.ID)
	}
	return fmt.Sprintf("%d %s", run.ID, run.State)
}

func lagText(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

func printProjection(out io.Writer, all []rebuild.Status) error {
	for _, s := range all {
		table := newTable(out)
		fmt.Fprintf(table, "name\t%s\ntables\t%s\ncheckpoint\t%d\nlag\t%d events, %s\nparked letters\t%d\n",
			s.Name, strings.Join(s.Tables, ", "), s.Checkpoint, s.LagEvents, lagText(s.LagSeconds), s.Parked)
		if s.Old != nil {
			fmt.Fprintf(table, "old tables\tat seq %d, replaced %s\n",
				s.Old.Seq, s.Old.Replaced.Format(time.RFC3339))
		}
		if s.Run != nil {
			fmt.Fprintf(table, "rebuild\t%s, of %s, begun %s\n",
				runText(s.Run), strings.Join(s.Run.Projections, ", "), s.Run.Started.Format(time.RFC3339))
			if s.Run.Error != "" {
				fmt.Fprintf(table, "\t%s\n", printable(s.Run.Error))
			}
			if s.Run.WaitsFor != nil {
				fmt.Fprintf(table, "\t%s\n", s.Run.WaitsFor)
			}
		}
		if err := table.Flush(); err != nil {
			return err
		}
		if s.Run != nil {
			printDifferences(out, s.Run.Differences)
		}
	}
	return nil
}
