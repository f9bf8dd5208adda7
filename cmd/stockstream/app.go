package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/stockstream/stockstream/audit"
	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/commands/recovery"
	"github.com/stockstream/stockstream/deadletters"
	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/journal"
	"github.com/stockstream/stockstream/httpapi"
	"github.com/stockstream/stockstream/internal/logonce"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/wait"
	"github.com/stockstream/stockstream/internal/worker"
	"github.com/stockstream/stockstream/migrations"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
	"github.com/stockstream/stockstream/sagas"
)

// app is a running process: its clients, and the parts that its roles need. newApp builds
// it, run runs it and closes it.
type app struct {
	config   *Config
	log      *slog.Logger
	pool     events.Pool
	listener net.Listener
	redis    redis.UniversalClient
	postgres *pgxpool.Pool
	commands *commands.Service
	recovery *recovery.Recovery
	router   *message.Router
	workers  []*worker.Worker
	rebuilds *rebuild.Background
	server   *http.Server

	closers  []func()      // one for each resource that newApp opened, in the order of opening
	draining chan struct{} // closed when the shutdown begins
	drained  chan struct{} // closed when no request is under way any more: the workers may stop
}

const (
	shutdownTimeout = 20 * time.Second // for requests under way
	schemaInterval  = time.Second      // between checks of a schema that is not at this build's version
)

// newApp builds the parts in dependency order. Redis and Postgres need not be reachable
// yet; the port must be free.
func newApp(ctx context.Context, config *Config, log *slog.Logger) (a *app, err error) {
	a = &app{
		config:   config,
		log:      log,
		pool:     config.pool(),
		draining: make(chan struct{}),
		drained:  make(chan struct{}),
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := a.listen(ctx); err != nil {
		return a, err
	}
	if a.redis, err = redisClient(config); err != nil {
		return a, err
	}
	// The time limit is for a Redis that does not respond, while Close would block.
	a.onClose(func() { _ = wait.AtMost(time.Second, a.redis.Close) })
	if a.postgres, err = postgresPool(ctx, config); err != nil {
		return a, err
	}
	a.onClose(a.postgres.Close)
	if a.commands, err = commands.NewService(a.pool, a.redis, config.Commands); err != nil {
		return a, err
	}
	a.onClose(func() { _ = a.commands.Close() })
	a.recovery = recovery.New(recovery.Config{
		Pool:           a.pool,
		Redis:          a.redis,
		Postgres:       a.postgres.Config().ConnConfig,
		Gate:           a.commands.Gate(),
		KeepMemory:     config.Commands.KeepMemory,
		UnjournaledMax: config.UnjournaledMax,
		Log:            log,
	})
	if err := a.addWorkers(); err != nil {
		return a, err
	}
	a.rebuilds = rebuild.NewBackground(rebuild.Config{
		Postgres: a.postgres.Config().ConnConfig,
		Pool:     a.pool,
		Watched:  projections.BuiltIn(),
		Log:      log,
	})
	crossOrigin, err := config.crossOrigin()
	if err != nil {
		return a, err
	}
	a.server = httpapi.NewServer(httpapi.Config{
		Commands:    a.commands,
		Ready:       a.ready,
		Postgres:    a.postgres,
		Redis:       a.redis,
		Pool:        a.pool,
		Projections: projections.BuiltIn(),
		Rebuilds:    a.rebuilds,
		Workers:     a.workers,
		Draining:    a.draining,
		Addr:        config.HTTPAddr,
		Hosts:       config.HTTPHosts,
		CrossOrigin: crossOrigin,
		HealthOnly:  !config.has(roleAPI),
		Log:         log,
	})
	return a, nil
}

// listen opens the port.
func (a *app) listen(ctx context.Context) (err error) {
	a.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", a.config.HTTPAddr)
	if err != nil {
		const advice = "choose another address with --http-addr or STOCKSTREAM_HTTP_ADDR"
		return fmt.Errorf("listen on %s (%s): %w", a.config.HTTPAddr, advice, err)
	}
	a.onClose(func() { _ = a.listener.Close() })
	return nil
}

// postgresPool returns a pool of connections, which need not be open yet.
func postgresPool(ctx context.Context, config *Config) (*pgxpool.Pool, error) {
	settings, err := postgres.ParsePoolURL(config.DatabaseURL)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, settings)
	if err != nil {
		return nil, fmt.Errorf("create the pool of Postgres connections: %w", err)
	}
	return pool, nil
}

// onClose registers a function that close will call.
func (a *app) onClose(closer func()) { a.closers = append(a.closers, closer) }

// close closes the resources that newApp opened, in reverse order.
func (a *app) close() {
	for _, closer := range slices.Backward(a.closers) {
		closer()
	}
}

// addWorkers adds the handlers of this process's roles to one Watermill Router.
func (a *app) addWorkers() (err error) {
	// The Router's own messages are logged at debug level: each worker logs why its
	// handler failed.
	levels := map[slog.Level]slog.Level{
		slog.LevelInfo:  slog.LevelDebug,
		slog.LevelError: slog.LevelDebug,
	}
	log := watermill.NewSlogLoggerWithLevelMapping(a.log, levels)
	a.router, err = message.NewRouter(message.RouterConfig{}, log)
	if err != nil {
		return fmt.Errorf("create the Watermill router: %w", err)
	}
	session := a.postgres.Config().ConnConfig
	if a.config.has(roleJournal) {
		writer := &journal.Writer{Park: deadletters.ParkEntries, Redis: a.redis, Log: a.log}
		a.workers = append(a.workers, writer.AddTo(a.router, journal.StreamSubscriberConfig{
			Redis:    a.redis,
			Postgres: session,
			Pool:     a.pool,
			BatchMax: a.config.BatchMax,
			Keep:     a.config.StreamKeep,
			Log:      a.log,
		}))
	}
	if a.config.has(roleProjections) {
		workers := projections.AddTo(a.router, projections.Config{
			Postgres: session,
			Pool:     a.pool,
			BatchMax: a.config.BatchMax,
			Log:      a.log,
		}, projections.BuiltIn()...)
		a.workers = append(a.workers, workers...)
	}
	if a.config.has(roleSagas) {
		expiry := &sagas.Expiry{
			Commands: a.commands,
			Redis:    a.redis,
			Postgres: a.postgres,
			Pool:     a.pool,
			Log:      a.log,
		}
		a.workers = append(a.workers, expiry.AddTo(a.router))
	}
	return nil
}

// takesCommands reports whether this process decides commands: those of the API, or the
// saga's cancellations.
func (a *app) takesCommands() bool { return a.config.has(roleAPI) || a.config.has(roleSagas) }

// ready returns nil if this process can do its work; /readyz answers 503 otherwise. A
// process that takes commands is ready when the pool is open, and stays ready while
// Postgres is away. Every other process needs Postgres, and the role journal also needs
// Redis.
func (a *app) ready(ctx context.Context) error {
	if a.takesCommands() {
		return a.commands.Ready(ctx)
	}
	if a.config.has(roleJournal) {
		if err := a.redis.Ping(ctx).Err(); err != nil {
			return fmt.Errorf("Redis does not answer: %w", err)
		}
	}
	return a.postgres.Ping(ctx)
}

// addr returns the address that the app listens on, as host:port.
func (a *app) addr() string { return a.listener.Addr().String() }

// run serves until ctx ends or a part fails, and then shuts down in this order: requests,
// rebuilds, workers (each of which finishes its batch), clients. It returns the first
// error.
func (a *app) run(ctx context.Context) error {
	defer a.close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		if err := a.awaitSchema(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // a shutdown is no failure
		}
		group.Go(func() error { return a.runWorkers(ctx) })
		group.Go(func() error { return a.runAudits(ctx) })
		if a.takesCommands() {
			a.recovery.Watch(ctx)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return a.drain()
	})
	return group.Wait()
}

// awaitSchema waits until the schema is at this build's version, or ctx ends. It fails
// with postgres.ErrPooler, which no waiting changes.
func (a *app) awaitSchema(ctx context.Context) error {
	var failure logonce.Last
	for {
		err := postgres.ExplainConnect(migrations.Check(ctx, a.postgres))
		if err == nil || ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is no failure
		}
		if errors.Is(err, postgres.ErrPooler) {
			return err
		}
		if failure.Changes(err.Error()) {
			a.log.Error("waiting for Postgres", "error", err)
		}
		if wait.For(ctx, schemaInterval) != nil {
			return nil //nolint:nilerr // a shutdown is no failure
		}
	}
}

// runWorkers runs the Router until the app is drained. The end of ctx does not stop the
// Router, because the workers must continue while the last requests are answered.
func (a *app) runWorkers(ctx context.Context) error {
	if len(a.workers) == 0 {
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- a.router.Run(context.WithoutCancel(ctx)) }()
	// The Router may only be closed once it runs: an earlier Close waits for handlers
	// that were never started.
	for _, reached := range []<-chan struct{}{a.router.Running(), a.drained} {
		select {
		case <-reached:
		case err := <-ended:
			return workersEnded(ctx, err)
		}
	}
	return errors.Join(a.router.Close(), <-ended)
}

// workersEnded returns the error for a Router that ended before it was closed.
func workersEnded(ctx context.Context, err error) error {
	if err != nil {
		return fmt.Errorf("run the workers: %w", err)
	}
	if ctx.Err() == nil {
		return errors.New("the workers stopped although the process was not shutting down")
	}
	return nil
}

// runAudits runs audits in the background. Only the role journal does so, because it is
// the only role that always needs both Redis and Postgres.
func (a *app) runAudits(ctx context.Context) error {
	if !a.config.has(roleJournal) || a.config.Audit == 0 {
		return nil
	}
	schedule := &audit.Schedule{
		Config: audit.Config{
			Postgres: a.postgres.Config().ConnConfig,
			Redis:    a.redis,
			Pool:     a.pool,
		},
		Interval: a.config.Audit,
		DB:       a.postgres,
		Log:      a.log,
	}
	schedule.Run(ctx)
	return nil
}

// drain finishes the requests and rebuilds under way, and then lets the workers stop.
func (a *app) drain() error {
	defer close(a.drained)
	a.log.Info("draining")
	close(a.draining)
	time.Sleep(a.config.DrainDelay)
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := a.server.Shutdown(ctx)
	a.rebuilds.Close()
	return err
}
