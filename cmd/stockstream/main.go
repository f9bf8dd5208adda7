// Command stockstream sells a limited stock to a crowd. It is the only place where all
// packages are wired together: config.go reads flags and environment, and app.go builds
// the running process in dependency order.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/projections/rebuild"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly shutdown. It also removes the handler, so that
	// a second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	collectGarbageLessOften()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stockstream:", err)
		os.Exit(1)
	}
}

// collectGarbageLessOften trades memory for speed. The live heap is small and nearly
// every allocation is short-lived, so a GC percentage of 400 instead of 100 doubles the
// journal's speed. The soft limit of 512 MiB makes the collector work more often once the
// heap grows towards it. The variables GOGC and GOMEMLIMIT, if set, take precedence.
func collectGarbageLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(512 << 20)
	}
}

// run executes one command line. It is the whole program except for the process: tests
// call it.
func run(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	root := newRootCommand(environ)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, rebuild.ErrCancelled) {
		return fmt.Errorf("interrupted: %w", err)
	}
	return err
}

// newRootCommand returns the command `stockstream` with all of its subcommands. Before a
// subcommand runs, the settings are read and validated.
func newRootCommand(environ []string) *cobra.Command {
	config := defaultConfig()
	root := &cobra.Command{
		Use:           "stockstream",
		Short:         "Sell a limited stock to a crowd, without ever selling a unit twice or losing one",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := readEnvironment(cmd.Root().PersistentFlags(), environ); err != nil {
				return err
			}
			if err := config.Validate(); err != nil {
				return err
			}
			redis.SetLogger(redisLog{config.logger(cmd.ErrOrStderr())})
			return nil
		},
	}
	config.addFlags(root.PersistentFlags())
	root.AddCommand(
		newServe(config),
		newDev(config),
		newMigrate(config),
		newDoctor(config),
		newProjections(config),
		newJournal(config),
		newRedis(config),
		newAudit(config),
		newEvents(config),
		newDeadLetters(config),
		newVersion(),
	)
	return root
}
