// Command stockstream sells a limited stock to a crowd. It is the only place where everything is wired together:
// config.go reads the environment, app.go builds the parts in the order in which they depend on each other.
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
	// The first signal asks for an orderly end; with the handler gone, a second one ends the process at once.
	context.AfterFunc(ctx, stop)
	collectGarbageLessOften()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stockstream:", err)
		os.Exit(1)
	}
}

// collectGarbageLessOften trades memory for speed: nearly all that this program allocates dies young, beside a small live heap, and
// collecting it four times less often doubles the journal's speed. Where the live heap is not small, it collects more
// often, rather than grow far beyond half a gigabyte. GOGC and GOMEMLIMIT, where they are set, say otherwise.
func collectGarbageLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(512 << 20)
	}
}

// run is the whole program, without the process around it.
func run(ctx context.Context, args, environ []string, out, errOut io.Writer) error {
	root := newRoot(environ)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, rebuild.ErrCancelled) {
		return fmt.Errorf("broken off: %w", err)
	}
	return err
}

func newRoot(environ []string) *cobra.Command {
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
		newServe(config), newDev(config), newMigrate(config), newDoctor(config), newProjections(config), newJournal(config),
		newRedis(config), newAudit(config), newEvents(config), newDeadLetters(config), newVersion(),
	)
	return root
}
