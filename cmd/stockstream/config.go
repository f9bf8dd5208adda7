package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/stockstream/stockstream/commands"
	"github.com/stockstream/stockstream/httpapi"
	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/redisclient"
	"github.com/stockstream/stockstream/internal/worker"
)

// Config has every setting. Each can be set by a flag or by an environment variable.
// The flags in addFlags are the only place with their names, defaults and explanations; a
// test checks the table in the docs against them.
type Config struct {
	HTTPAddr    string
	HTTPHosts   []string
	HTTPOrigins []string
	RedisURL    string
	DatabaseURL string
	Roles       []string
	Commands    commands.Config
	BatchMax    int
	StreamKeep  time.Duration
	// UnjournaledMax is the number of events that are not journaled at which reserves are
	// refused; 0 for no limit.
	UnjournaledMax int64
	DrainDelay     time.Duration
	Audit          time.Duration // between two audits in the background; 0 for no such audits
	LogLevel       string
	LogFormat      string
}

// The roles of a process. Any number of processes may run with the same role.
const (
	roleAPI         = "api"
	roleJournal     = "journal"
	roleProjections = "projections"
	roleSagas       = "sagas"
)

var allRoles = []string{roleAPI, roleJournal, roleProjections, roleSagas}

func defaultConfig() *Config {
	return &Config{
		HTTPAddr:       "127.0.0.1:8080",
		RedisURL:       "redis://127.0.0.1:6379/0",
		DatabaseURL:    "postgres://app@127.0.0.1:5432/inventory",
		Roles:          allRoles,
		Commands:       commands.DefaultConfig(),
		BatchMax:       worker.BatchMaxDefault,
		StreamKeep:     10 * time.Minute,
		UnjournaledMax: 5_000_000,
		DrainDelay:     250 * time.Millisecond,
		Audit:          time.Minute,
		LogLevel:       "info",
		LogFormat:      "text",
	}
}

func (c *Config) addFlags(f *pflag.FlagSet) {
	f.StringVar(&c.HTTPAddr, "http-addr", c.HTTPAddr, "address to listen on; port 0 takes a free one")
	f.StringSliceVar(&c.HTTPHosts, "http-hosts", c.HTTPHosts,
		"further hosts under which clients reach the service, such as shop.internal; * for every host")
	f.StringSliceVar(&c.HTTPOrigins, "http-origins", c.HTTPOrigins,
		"other origins whose web pages may send commands, such as https://shop.example")
	f.StringVar(&c.RedisURL, "redis-url", c.RedisURL, "Redis that decides: redis://, redis+sentinel:// or redis+cluster:// (rediss… for TLS), or unix://")
	f.StringVar(&c.DatabaseURL, "database-url", c.DatabaseURL, "Postgres that records")
	f.StringSliceVar(&c.Roles, "roles", c.Roles, "what this process does")
	f.DurationVar(&c.Commands.HoldTTL, "hold-ttl", c.Commands.HoldTTL,
		"how long a hold lives that names no ttl_seconds")
	f.DurationVar(&c.Commands.HoldTTLMax, "hold-ttl-max", c.Commands.HoldTTLMax,
		"the longest that a hold may ask for")
	f.DurationVar(&c.Commands.KeepMemory, "keep-memory", c.Commands.KeepMemory,
		"how long idempotency keys and ended holds are remembered")
	f.DurationVar(&c.Commands.Timeout, "command-timeout", c.Commands.Timeout,
		"how long Redis may take to decide; a command waits for its turn as long at most")
	f.IntVar(&c.BatchMax, "batch-max", c.BatchMax,
		"events in one transaction of the journal or of a projection")
	f.DurationVar(&c.StreamKeep, "stream-keep", c.StreamKeep,
		"how long an event stays on the stream once it is in the journal; 0 to trim at once")
	f.Int64Var(&c.UnjournaledMax, "unjournaled-max", c.UnjournaledMax,
		"events that may wait for the journal before reserves are refused; 0 for no limit")
	f.DurationVar(&c.DrainDelay, "drain-delay", c.DrainDelay,
		"how long /readyz says draining, and answers close their connections, before the listener closes")
	f.DurationVar(&c.Audit, "audit-interval", c.Audit,
		"how often the role journal audits in the background; 0 for never")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", c.LogFormat, "text or json")
}

// Validate returns an error that lists every invalid setting.
func (c *Config) Validate() error {
	errs := []error{c.Commands.Validate()}
	for _, name := range c.HTTPHosts {
		if err := httpapi.CheckHostName(name); err != nil {
			errs = append(errs, fmt.Errorf("http hosts: %w", err))
		}
	}
	if _, err := c.crossOrigin(); err != nil {
		errs = append(errs, fmt.Errorf("http origins: %w", err))
	}
	if err := redisclient.Check(c.RedisURL); err != nil {
		errs = append(errs, fmt.Errorf("STOCKSTREAM_REDIS_URL (--redis-url): %w", err))
	}
	if _, err := postgres.ParseURL(c.DatabaseURL); err != nil {
		errs = append(errs, err)
	}
	if len(c.Roles) == 0 {
		errs = append(errs, errors.New("roles: name at least one"))
	}
	for _, role := range c.Roles {
		if !slices.Contains(allRoles, role) {
			errs = append(errs, fmt.Errorf("roles: %q is not one of %s", role, strings.Join(allRoles, ", ")))
		}
	}
	if c.BatchMax < 1 || c.BatchMax > 100_000 {
		errs = append(errs, fmt.Errorf("batch max %d: must be from 1 to 100000", c.BatchMax))
	}
	if c.StreamKeep < 0 {
		errs = append(errs, fmt.Errorf("stream keep %s: must not be below 0", c.StreamKeep))
	}
	if c.UnjournaledMax < 0 {
		errs = append(errs, fmt.Errorf("unjournaled max %d: must not be below 0", c.UnjournaledMax))
	}
	if c.DrainDelay < 0 {
		errs = append(errs, fmt.Errorf("drain delay %s: must not be below 0", c.DrainDelay))
	}
	if c.Audit < 0 {
		errs = append(errs, fmt.Errorf("audit interval %s: must not be below 0", c.Audit))
	}
	if new(slog.Level).UnmarshalText([]byte(c.LogLevel)) != nil {
		errs = append(errs, fmt.Errorf("log level %q: want debug, info, warn or error", c.LogLevel))
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		errs = append(errs, fmt.Errorf("log format %q: want text or json", c.LogFormat))
	}
	return errors.Join(errs...)
}

// crossOrigin returns the check of the pages that send requests.
func (c *Config) crossOrigin() (*http.CrossOriginProtection, error) {
	protection := http.NewCrossOriginProtection()
	var errs []error
	for _, origin := range c.HTTPOrigins {
		errs = append(errs, protection.AddTrustedOrigin(origin))
	}
	return protection, errors.Join(errs...)
}

func (c *Config) has(role string) bool { return slices.Contains(c.Roles, role) }

func (c *Config) logger(out io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // Validate has checked it
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}

const environmentPrefix = "STOCKSTREAM_"

// environmentName returns the name of the environment variable for a flag:
// STOCKSTREAM_HTTP_ADDR for --http-addr.
func environmentName(flag string) string {
	return environmentPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// readEnvironment sets flags from environment variables, except those that the command
// line has set. An unknown STOCKSTREAM_ variable is an error: it is probably misspelt,
// and the operator expects it to take effect.
func readEnvironment(flags *pflag.FlagSet, environ []string) error {
	byName := map[string]*pflag.Flag{}
	flags.VisitAll(func(f *pflag.Flag) { byName[environmentName(f.Name)] = f })
	var errs []error
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, environmentPrefix) {
			continue
		}
		flag, known := byName[name]
		switch {
		case !known:
			errs = append(errs,
				fmt.Errorf("environment: %s is not a setting; see `stockstream help serve`", name))
		case !flag.Changed:
			if err := flags.Set(flag.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment: %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
