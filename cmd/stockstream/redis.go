package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/events"
)

func newRedis(config *Config) *cobra.Command {
	parent := newCommandGroup("redis", "Look after what Redis keeps of the events")
	parent.AddCommand(newRedisRebuild(config))
	return parent
}

func newRedisRebuild(config *Config) *cobra.Command {
	var (
		sure bool
		wait time.Duration
		form output
	)
	rebuild := &cobra.Command{
		Use:   "rebuild",
		Short: "Write everything anew that Redis keeps of the events, from the journal",
		Long: "Write stock, holds, deadlines and idempotency keys anew, from the journal. A running service does so by itself\n" +
			"when Redis was emptied or is behind; this is for a Redis that has drifted, or a service that is down. From the\n" +
			"moment in which the log is closed until it is open again, commands are answered 503; what fails before any key\n" +
			"was touched leaves the log open as it was. Stock that was typed by hand, and that no command has seen yet, is\n" +
			"undone. A process with the role journal has to run, for the events that the journal does not have yet.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			done, err := rebuildRedis(cmd, config, commands.RebuildOptions{
				EvenHealthy: sure, Wait: wait, Report: commands.EveryStep(time.Second, printProgress(cmd.ErrOrStderr())),
			})
			if errors.Is(err, commands.ErrHealthy) {
				return fmt.Errorf("%w; a rebuild answers commands 503 while it writes, so add --yes if that is meant", err)
			}
			if err != nil {
				return err
			}
			return printRebuilt(cmd.OutOrStdout(), form, done, time.Since(began))
		},
	}
	rebuild.Flags().BoolVar(&sure, "yes", false, "go on though Redis has everything that the journal has")
	rebuild.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long the journal may take to catch up with the log that was closed")
	addOutput(rebuild, &form, "table or json")
	return rebuild
}

func rebuildRedis(cmd *cobra.Command, config *Config, options commands.RebuildOptions) (commands.Rebuilt, error) {
	client, err := redisClient(config)
	if err != nil {
		return commands.Rebuilt{}, err
	}
	defer client.Close()
	postgres, err := latestSchemaConfig(cmd.Context(), config)
	if err != nil {
		return commands.Rebuilt{}, err
	}
	service, err := commands.NewService(events.MainPool, client, config.Commands)
	if err != nil {
		return commands.Rebuilt{}, err
	}
	defer service.Close() //nolint:errcheck // no command is under way
	return service.Rebuild(cmd.Context(), postgres, options)
}

// printProgress prints a line per report: the step, and how much of it is done.
func printProgress(out io.Writer) func(commands.Progress) {
	return func(p commands.Progress) {
		switch {
		case p.Total > 0:
			fmt.Fprintf(out, "%s: %d of %d\n", p.Step, p.Done, p.Total)
		case p.Done > 0:
			fmt.Fprintf(out, "%s: %d\n", p.Step, p.Done)
		default:
			fmt.Fprintln(out, p.Step)
		}
	}
}

// rebuiltJSON is a result for other programs.
type rebuiltJSON struct {
	Epoch      int64   `json:"epoch"`
	Seq        int64   `json:"seq"`
	SKUs       int64   `json:"skus"`
	LiveHolds  int64   `json:"live_holds"`
	EndedHolds int64   `json:"ended_holds"`
	Keys       int64   `json:"idempotency_keys"`
	Unreadable int64   `json:"unreadable_events"`
	Seconds    float64 `json:"seconds"`
}

func printRebuilt(out io.Writer, form output, done commands.Rebuilt, took time.Duration) error {
	if form == outputJSON {
		return json.NewEncoder(out).Encode(rebuiltJSON{
			Epoch: done.Epoch, Seq: done.Seq, SKUs: done.SKUs, LiveHolds: done.LiveHolds, EndedHolds: done.EndedHolds,
			Keys: done.Keys, Unreadable: done.Unreadable, Seconds: took.Seconds(),
		})
	}
	fmt.Fprintf(out, "open again in epoch %d at seq %d, after %s: %d SKUs, %d live holds, %d ended holds and %d idempotency keys that are still remembered\n",
		done.Epoch, done.Seq, took.Round(time.Millisecond), done.SKUs, done.LiveHolds, done.EndedHolds, done.Keys)
	if done.Unreadable > 0 {
		fmt.Fprintf(out, "%d events could not be read and were passed over; see `stockstream dead-letters list`\n", done.Unreadable)
	}
	return nil
}
