package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/commands/recovery"
)

func newRedis(config *Config) *cobra.Command {
	parent := newCommandGroup("redis", "Manage the state in Redis")
	parent.AddCommand(newRedisRebuild(config), newRedisRepair(config))
	return parent
}

func newRedisRebuild(config *Config) *cobra.Command {
	var (
		confirmed bool
		wait      time.Duration
		form      output
	)
	rebuild := &cobra.Command{
		Use:   "rebuild",
		Short: "Rebuild the state in Redis from the journal",
		Long: "Rebuild stock, holds, deadlines and idempotency keys in Redis from the journal. A running service does so by\n" +
			"itself when Redis is empty or behind the journal. Use this command if the audit finds that Redis differs from\n" +
			"the journal, or while the service is down.\n\n" +
			"The rebuild closes Redis's log, writes the keys and opens the log again. In between, commands are answered\n" +
			"503. If the rebuild fails before it has changed a key, the log is opened again as it was. A stock counter that\n" +
			"was set by hand is lost, unless a command has used it since. A process with the role journal must run, to\n" +
			"journal the last events of the stream.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			done, err := rebuildRedis(cmd, config, recovery.RebuildOptions{
				EvenHealthy: confirmed,
				Wait:        wait,
				Report:      recovery.EveryStep(time.Second, printProgress(cmd.ErrOrStderr())),
			})
			if errors.Is(err, recovery.ErrHealthy) {
				const advice = "commands would be answered 503 during the rebuild; to rebuild anyway, add --yes"
				return fmt.Errorf("%w; %s", err, advice)
			}
			if err != nil {
				return err
			}
			return printRebuilt(cmd.OutOrStdout(), form, done, time.Since(began))
		},
	}
	rebuild.Flags().BoolVar(&confirmed, "yes", false,
		"rebuild even if Redis has everything that the journal has")
	rebuild.Flags().DurationVar(&wait, "wait", 30*time.Second,
		"how long to wait until the journal has caught up with Redis's closed log")
	addOutput(rebuild, &form, "table or json")
	return rebuild
}

func rebuildRedis(
	cmd *cobra.Command, config *Config, options recovery.RebuildOptions,
) (recovery.Rebuilt, error) {
	r, closeClient, err := newRecovery(cmd, config)
	if err != nil {
		return recovery.Rebuilt{}, err
	}
	defer closeClient()
	return r.Rebuild(cmd.Context(), options)
}

// newRecovery returns a recovery for a command, and a function that closes its client.
func newRecovery(cmd *cobra.Command, config *Config) (r *recovery.Recovery, closeClient func(), err error) {
	client, err := redisClient(config)
	if err != nil {
		return nil, nil, err
	}
	postgres, err := latestSchemaConfig(cmd.Context(), config)
	if err != nil {
		_ = client.Close()
		return nil, nil, err
	}
	r = recovery.New(recovery.Config{
		Pool:     config.pool(),
		Redis:    client,
		Postgres: postgres,
		Log:      slog.New(slog.DiscardHandler), // the progress is printed instead
	})
	return r, func() { _ = client.Close() }, nil
}

// printProgress returns a function that prints each progress report as a line: the step,
// and how much of it is done.
func printProgress(out io.Writer) func(recovery.RestoreProgress) {
	return func(p recovery.RestoreProgress) {
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

// rebuiltJSON is the result of a rebuild as the command prints it with -o json.
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

func printRebuilt(out io.Writer, form output, done recovery.Rebuilt, took time.Duration) error {
	if form == outputJSON {
		return json.NewEncoder(out).Encode(rebuiltJSON{
			Epoch:      done.Epoch,
			Seq:        done.Seq,
			SKUs:       done.SKUs,
			LiveHolds:  done.LiveHolds,
			EndedHolds: done.EndedHolds,
			Keys:       done.Keys,
			Unreadable: done.Unreadable,
			Seconds:    took.Seconds(),
		})
	}
	fmt.Fprintf(out, "Redis's log is open again in epoch %d at seq %d, after %s: ",
		done.Epoch, done.Seq, took.Round(time.Millisecond))
	fmt.Fprintf(out, "%d SKUs, %d live holds, %d ended holds, %d idempotency keys\n",
		done.SKUs, done.LiveHolds, done.EndedHolds, done.Keys)
	if done.Unreadable > 0 {
		const skipped = "%d events could not be decoded and were skipped; see `stockstream dead-letters list`\n"
		fmt.Fprintf(out, skipped, done.Unreadable)
	}
	return nil
}
