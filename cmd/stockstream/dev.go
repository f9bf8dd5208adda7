package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stockstream/stockstream/internal/local"
)

// devOptions are the flags of `stockstream dev`.
type devOptions struct {
	dir          string
	redisAddr    string
	postgresAddr string
}

func newDev(config *Config) *cobra.Command {
	options := devOptions{
		dir:          ".stockstream",
		redisAddr:    "127.0.0.1:6380",
		postgresAddr: "127.0.0.1:5433",
	}
	dev := &cobra.Command{
		Use:   "dev",
		Short: "Run the service with its own Redis and Postgres; their data stay in ./.stockstream",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDev(cmd.Context(), config, options, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	dev.Flags().StringVar(&options.dir, "dir", options.dir,
		"directory for the data and logs of Redis and Postgres")
	dev.Flags().StringVar(&options.redisAddr, "dev-redis-addr", options.redisAddr,
		"address for its Redis to listen on; port 0 takes a free one")
	dev.Flags().StringVar(&options.postgresAddr, "dev-postgres-addr", options.postgresAddr,
		"address for its Postgres to listen on; port 0 takes a free one")
	return dev
}

// runDev starts the two servers, migrates the schema and runs the service until ctx ends.
// It stops them in reverse order. If one of the servers dies, the service keeps running
// and logs it, as it does in production.
func runDev(ctx context.Context, config *Config, options devOptions, out, errOut io.Writer) (err error) {
	if err := local.CheckInstalled(); err != nil {
		return err
	}
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // Postgres runs as another user, who must be able to enter
	}
	if err := os.MkdirAll(options.dir, mode); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	unlock, err := lockDirectory(options.dir)
	if err != nil {
		return err
	}
	defer unlock()
	fmt.Fprintf(out, "starting Redis and Postgres in %s …\n", options.dir)
	startRedis := func(dir string, log io.Writer) (*local.Redis, error) {
		return local.StartRedis(ctx, local.RedisOptions{
			Dir:  dir,
			Addr: options.redisAddr,
			Log:  log,
		})
	}
	redis, err := startWithLogFile(options.dir, "redis", startRedis)
	if err != nil {
		return fmt.Errorf("%w\n(choose another address for Redis with --dev-redis-addr)", err)
	}
	defer func() { err = errors.Join(err, stopInTime(redis.Stop)) }()
	startPostgres := func(dir string, log io.Writer) (*local.Postgres, error) {
		return local.StartPostgres(ctx, local.PostgresOptions{
			Dir:  dir,
			Addr: options.postgresAddr,
			Log:  log,
		})
	}
	postgres, err := startWithLogFile(options.dir, "postgres", startPostgres)
	if err != nil {
		return fmt.Errorf("%w\n(choose another address for Postgres with --dev-postgres-addr)", err)
	}
	defer func() { err = errors.Join(err, stopInTime(postgres.Stop)) }()
	config.RedisURL = redis.URL()
	config.DatabaseURL = postgres.URL()
	if err := migrateUp(ctx, config); err != nil {
		return err
	}
	log := config.logger(errOut)
	a, err := newApp(ctx, config, log)
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching() // runs before the servers are stopped
	redisLogFile := filepath.Join(options.dir, "redis.log")
	postgresLogFile := filepath.Join(options.dir, "postgres.log")
	go logUnexpectedExit(watching, log, redis.Done(), "Redis", redisLogFile)
	go logUnexpectedExit(watching, log, postgres.Done(), "Postgres", postgresLogFile)
	fmt.Fprintf(out, devBanner, a.addr(), postgres.URL(), redis.URL())
	err = a.run(ctx)
	fmt.Fprintln(out, "stopping Redis and Postgres …")
	return err
}

// logUnexpectedExit logs an error if the server exits while ctx has not ended.
func logUnexpectedExit(ctx context.Context, log *slog.Logger, done <-chan struct{}, name, file string) {
	select {
	case <-ctx.Done():
	case <-done:
		if ctx.Err() == nil {
			log.Error(name+" exited unexpectedly; stop this program and start it again", "log", file)
		}
	}
}

// lockDirectory locks the directory until unlock is called. It fails if another
// `stockstream dev` has the lock. Without it, the second one would stop the servers of
// the first, as if they were leftovers of a crash.
func lockDirectory(dir string) (unlock func(), err error) {
	name := filepath.Join(dir, "lock")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the user named dir
	if err != nil {
		return nil, fmt.Errorf("open the lock file: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		const advice = "stop it, or choose another directory with --dir"
		err = fmt.Errorf("another `stockstream dev` runs in %s; %s", dir, advice)
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// startWithLogFile starts a server whose data directory is dir/name and whose log file is
// dir/name.log.
func startWithLogFile[S any](
	dir, name string, start func(dir string, log io.Writer) (S, error),
) (server S, err error) {
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY
	path := filepath.Join(dir, name+".log")
	log, err := os.OpenFile(path, flags, 0o600) //nolint:gosec // the user named dir
	if err != nil {
		return server, fmt.Errorf("open the log of %s: %w", name, err)
	}
	return start(filepath.Join(dir, name), log)
}

// stopInTime stops a server, which is killed if it needs longer than 15 seconds. It uses
// a context of its own because the program's context has ended by now.
func stopInTime(stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return stop(ctx)
}

const devBanner = `
StockStream is ready.

  API        http://%[1]s
  health     http://%[1]s/readyz?verbose
  Postgres   psql '%[2]s'
  Redis      redis-cli -u %[3]s

Try:

  redis-cli -u %[3]s SET stock:iphone_15_pro_256 3
  curl -i http://%[1]s/holds/reserve -H 'Content-Type: application/json' \
    -d '{"sku":"iphone_15_pro_256","qty":1,"user_id":"u1","idempotency_key":"first-try"}'

To use other stockstream commands in another terminal:

  export STOCKSTREAM_REDIS_URL='%[3]s' STOCKSTREAM_DATABASE_URL='%[2]s'

Ctrl-C stops the service and both servers. The data stay.

`
