package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// fixedSettings are settings of every session of ours. Each one is sent when a session
// starts, and takes precedence over the defaults of the server, the database and the
// role. A database URL that sets one of them to another value is refused.
var fixedSettings = map[string]string{
	"default_transaction_isolation": "read committed",
	"default_transaction_read_only": "off",
	"standard_conforming_strings":   "on",
	"timezone":                      "UTC",
}

// defaultSettings are settings of every session of ours, like fixedSettings, unless the
// database URL sets them.
var defaultSettings = map[string]string{
	"search_path":                         "public",
	"statement_timeout":                   "0",
	"lock_timeout":                        "0",
	"idle_session_timeout":                "0",
	"idle_in_transaction_session_timeout": "0",
}

// databaseURLName is how messages name the database URL. They never quote a part of it:
// in a URL with a typing error, any part may be a part of the password.
const databaseURLName = "STOCKSTREAM_DATABASE_URL (--database-url)"

var errInvalidURL = errors.New(databaseURLName + " is not a valid Postgres URL, which has the form " +
	"postgres://user:password@host:port/database?name=value; write special characters in percent-encoding")

// ErrPooler is the error of a session that a pooler does not leave as we need it. Leases
// are advisory locks of a session, so a session must stay ours until we close it.
var ErrPooler = errors.New("a pooler such as PgBouncer is between this process and Postgres; connect to Postgres itself")

// ParsePoolURL returns the settings of a pool for a database URL. Every session that is
// opened with them has fixedSettings and defaultSettings, and fails with ErrPooler if it
// is not a session of its own.
func ParsePoolURL(databaseURL string) (*pgxpool.Config, error) {
	if hasMisplacedPassword(databaseURL) {
		return nil, errInvalidURL
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, errInvalidURL // err quotes the URL
	}
	session := config.ConnConfig
	switch session.DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol:
		const format = "%s: default_query_exec_mode=%s does not work here, because it sends values without their types; leave it out"
		return nil, fmt.Errorf(format, databaseURLName, session.DefaultQueryExecMode)
	}
	if err := setParameters(session.RuntimeParams); err != nil {
		return nil, err
	}
	session.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		return checkSession(ctx, conn, session)
	}
	return config, nil
}

// ParseURL returns the settings of a single session for a database URL. See ParsePoolURL.
func ParseURL(databaseURL string) (*pgx.ConnConfig, error) {
	config, err := ParsePoolURL(databaseURL)
	if err != nil {
		return nil, err
	}
	return config.ConnConfig, nil
}

// hasMisplacedPassword reports whether a part of the password would be read as another
// part of the URL, because a character in it is not percent-encoded: such a URL has an @
// after the host, or a fragment.
func hasMisplacedPassword(databaseURL string) bool {
	_, rest, isURL := strings.Cut(databaseURL, "://")
	if !isURL {
		return false
	}
	end := strings.IndexAny(rest, "/?#")
	return end >= 0 && strings.ContainsAny(rest[end:], "@#")
}

// setParameters adds our settings to the parameters of a database URL. Postgres reads
// parameters after the URL's options, so a parameter takes precedence over an option.
func setParameters(parameters map[string]string) error {
	for name, value := range maps.Clone(parameters) {
		delete(parameters, name)
		parameters[strings.ToLower(name)] = value
	}
	for name, value := range fixedSettings {
		if given, isGiven := parameters[name]; isGiven && !strings.EqualFold(given, value) {
			return fmt.Errorf("%s sets %s; leave it out: it must be %q", databaseURLName, name, value)
		}
		parameters[name] = value
	}
	for name, value := range defaultSettings {
		if _, isGiven := parameters[name]; !isGiven && !isOption(parameters["options"], name) {
			parameters[name] = value
		}
	}
	return nil
}

// isOption reports whether options, the command line of a session, sets the setting: with
// -c name=value or --name=value.
func isOption(options, setting string) bool {
	name := strings.ReplaceAll(setting, "_", "[_-]")
	return regexp.MustCompile(`(?i)(^|\s)(-c\s*|--)` + name + `=`).MatchString(options)
}

// checkTimeout bounds checkSession. A pooler may let a second session wait.
const checkTimeout = 10 * time.Second

// checkSession fails with ErrPooler if a pooler runs the transactions of a session in
// different sessions of Postgres, or does not pass on our settings.
func checkSession(ctx context.Context, conn *pgconn.PgConn, config *pgx.ConnConfig) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	names := slices.AppendSeq(slices.Collect(maps.Keys(fixedSettings)), maps.Keys(defaultSettings))
	row, err := queryRow(ctx, conn, `
		SELECT pg_backend_pid(), coalesce(string_agg(name || ' from ' || source, ', ' ORDER BY name), '')
		FROM pg_settings WHERE source NOT IN ('client', 'session') AND lower(name) IN ('`+
		strings.Join(names, `', '`)+`')`)
	if err != nil {
		return fmt.Errorf("check the session: %w", err)
	}
	pid := row[0]
	ignored := row[1]
	// A pooler invents the process id that a client is given when it connects.
	if pid != strconv.FormatUint(uint64(conn.PID()), 10) {
		shared, err := isShared(ctx, conn, pid, config)
		if err != nil {
			return fmt.Errorf("check whether a pooler is between this process and Postgres: %w", ExplainConnect(err))
		}
		if shared {
			return fmt.Errorf("%w: it runs the transactions of one session in different sessions of Postgres (transaction mode)", ErrPooler)
		}
	}
	if ignored != "" {
		return fmt.Errorf("%w: it does not pass on our settings, and Postgres takes %s", ErrPooler, ignored)
	}
	return nil
}

// sharedRounds is how often isShared looks. A busy pooler may happen to give the first
// session the same server again.
const sharedRounds = 5

// isShared reports whether a pooler gives the session of conn to others between two
// transactions. pid is the process that served its last transaction. A second session
// begins a transaction, which needs a server: if the pooler gives it the process of the
// first session, or the first session has another process meanwhile, the pooler shares.
func isShared(ctx context.Context, conn *pgconn.PgConn, pid string, config *pgx.ConnConfig) (bool, error) {
	second := config.Copy()
	second.AfterConnect = nil
	other, err := pgconn.ConnectConfig(ctx, &second.Config)
	if err != nil {
		return false, err
	}
	defer other.Close(ctx) //nolint:errcheck // it has written nothing
	const ask = `SELECT pg_backend_pid()`
	for range sharedRounds {
		if _, err := other.Exec(ctx, `BEGIN`).ReadAll(); err != nil {
			return false, err
		}
		for _, session := range []*pgconn.PgConn{other, conn} {
			row, err := queryRow(ctx, session, ask)
			if err != nil {
				return false, err
			}
			if isFirst := session == conn; isFirst != (row[0] == pid) {
				return true, nil
			}
		}
		if _, err := other.Exec(ctx, `ROLLBACK`).ReadAll(); err != nil {
			return false, err
		}
	}
	return false, nil
}

// queryRow returns the single row of a query as text. It prepares no statement, because a
// pooler in transaction mode would lose it.
func queryRow(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, errors.New("Postgres did not answer with one row")
	}
	var row []string
	for _, value := range results[0].Rows[0] {
		row = append(row, string(value))
	}
	return row, nil
}

// refusals are parts of the messages with which PgBouncer refuses a session.
var refusals = []string{"unsupported startup parameter", "statement pooling mode"}

// ExplainConnect adds ErrPooler to the error of a connection that a pooler has refused.
// It returns other errors as they are.
func ExplainConnect(err error) error {
	var fault *pgconn.PgError
	if !errors.As(err, &fault) {
		return err
	}
	for _, refusal := range refusals {
		if strings.Contains(fault.Message, refusal) {
			return fmt.Errorf("%w: it refuses a session with our settings: %w", ErrPooler, err)
		}
	}
	return err
}
