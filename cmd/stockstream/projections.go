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
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

func newProjections(config *Config) *cobra.Command {
	parent := newCommandGroup("projections", "Look at the read tables, and make them anew from the journal")
	parent.AddCommand(
		newProjectionsList(config), newProjectionsShow(config), newProjectionsRebuild(config), newProjectionsDropOld(config),
		newProjectionsRestoreOld(config), newProjectionsCancel(config),
	)
	return parent
}

func newProjectionsList(config *Config) *cobra.Command {
	var form output
	list := &cobra.Command{
		Use:   "list",
		Short: "List the projections, how far behind they are, and what is kept of older ones",
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
		Short: "Show projections with their newest rebuilds, and in what the new tables differed",
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

const statusOutputUsage = "table, or json with everything that is known, one projection a line"

func newProjectionsDropOld(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "drop-old NAME…",
		Short: "Drop the tables that a rebuild replaced; there is no way back then",
		Args:  atLeastOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEachProjection(cmd, config, args, func(with rebuild.Config, p projections.Projection) error {
				if err := rebuild.DropOld(cmd.Context(), with, p); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "the old tables of %s are dropped\n", p.Name)
				return nil
			})
		},
	}
}

func newProjectionsRestoreOld(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "restore-old NAME…",
		Short: "Put the tables back that a rebuild replaced; the ones of now are kept in their stead",
		Args:  atLeastOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return forEachProjection(cmd, config, args, func(with rebuild.Config, p projections.Projection) error {
				outcome, err := rebuild.RestoreOld(cmd.Context(), with, p)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s serves its old tables, which stand at seq %d, and catches up from there\n", p.Name, outcome.Seq)
				return nil
			})
		},
	}
}

func newProjectionsCancel(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel",
		Short: "End the rebuild that runs, in whichever process; nothing that serves is changed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withConnection(cmd.Context(), config, func(conn *pgx.Conn) error {
				id, err := rebuild.Cancel(cmd.Context(), conn)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "rebuild %d is asked to end\n", id)
				return nil
			})
		},
	}
}

// atLeastOneName takes one name or more. Which there are, the error for a wrong one says, too.
func atLeastOneName(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("name a projection; `stockstream projections list` shows them")
	}
	return nil
}

// forEachProjection does something with projections, one after the other, once the schema is known to fit. One that fails
// does not keep the others from their turn.
func forEachProjection(cmd *cobra.Command, config *Config, names []string, do func(rebuild.Config, projections.Projection) error) error {
	list, err := projections.Named(names...)
	if err != nil {
		return err
	}
	with, err := rebuildConfig(cmd.Context(), config, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	for _, p := range list {
		err = errors.Join(err, do(with, p))
	}
	return err
}

// rebuildConfig is what this program rebuilds with. It fails where the schema is not this build's.
func rebuildConfig(ctx context.Context, config *Config, errOut io.Writer) (rebuild.Config, error) {
	session, err := latestSchemaConfig(ctx, config)
	return rebuild.Config{Postgres: session, Pool: events.MainPool, Watched: projections.BuiltIn(), Log: config.logger(errOut)}, err
}

func printStatuses(cmd *cobra.Command, config *Config, form output, table func(io.Writer, []rebuild.Status) error, list ...projections.Projection) error {
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
		return table(cmd.OutOrStdout(), all)
	})
}

func printProjections(out io.Writer, all []rebuild.Status) error {
	table := newTable(out)
	fmt.Fprintln(table, "NAME\tCHECKPOINT\tLAG EVENTS\tLAG\tPARKED\tOLD TABLES\tREBUILD")
	for _, s := range all {
		old, run := "-", "-"
		if s.Old != nil {
			old = fmt.Sprintf("at %d, of %s", s.Old.Seq, s.Old.Replaced.Format(time.RFC3339))
		}
		if s.Run != nil {
			run = runText(s.Run)
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%s\t%d\t%s\t%s\n", s.Name, s.Checkpoint, s.LagEvents, lagText(s.LagSeconds), s.Parked, old, run)
	}
	return table.Flush()
}

func runText(run *rebuild.RunRecord) string {
	switch run.State {
	case rebuild.Running:
		text := fmt.Sprintf("%d %s, %d of %d, %d/s", run.ID, run.Step, run.Done, run.Total, run.Rate)
		if run.ETASeconds > 0 {
			text += fmt.Sprintf(", %.0fs left", run.ETASeconds)
		}
		return text
	case rebuild.Interrupted:
		return fmt.Sprintf("%d interrupted; begin it again", run.ID)
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
			fmt.Fprintf(table, "old tables\tat seq %d, replaced %s\n", s.Old.Seq, s.Old.Replaced.Format(time.RFC3339))
		}
		if s.Run != nil {
			fmt.Fprintf(table, "rebuild\t%s, of %s, begun %s\n", runText(s.Run), strings.Join(s.Run.Projections, ", "), s.Run.Started.Format(time.RFC3339))
			if s.Run.Error != "" {
				fmt.Fprintf(table, "\t%s\n", s.Run.Error)
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
