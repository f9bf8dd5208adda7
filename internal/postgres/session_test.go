package postgres_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// with adds parameters to a database URL.
func with(t *testing.T, databaseURL string, parameters ...string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	for i := 0; i < len(parameters); i += 2 {
		query.Set(parameters[i], parameters[i+1])
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // pgx reads a + as itself
	return u.String()
}

func wantSetting(t *testing.T, conn *pgx.Conn, name, want string) {
	t.Helper()
	var got string
	if err := conn.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
}

// TestRoleSettingsDoNotReachASession checks that the defaults of the role and of the
// database do not change a session of ours, and that a schema named like the role does
// not hide public.
func TestRoleSettingsDoNotReachASession(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	admin := testenv.Connect(t, testenv.ParseURL(t, server.URL()))
	for _, sql := range []string{
		`CREATE SCHEMA app`,
		`ALTER DATABASE inventory SET standard_conforming_strings = off`,
		`ALTER DATABASE inventory SET default_transaction_read_only = on`,
		`ALTER ROLE app SET default_transaction_isolation = 'serializable'`,
		`ALTER ROLE app SET timezone = 'Asia/Kathmandu'`,
		`ALTER ROLE app SET statement_timeout = '5ms'`,
		`ALTER ROLE app SET lock_timeout = '5ms'`,
		`ALTER ROLE app SET idle_session_timeout = '5ms'`,
		`ALTER ROLE app SET idle_in_transaction_session_timeout = '5ms'`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	conn := testenv.Connect(t, testenv.ParseURL(t, server.URL()))
	for name, want := range map[string]string{
		"search_path":                         "public",
		"standard_conforming_strings":         "on",
		"transaction_read_only":               "off",
		"transaction_isolation":               "read committed",
		"timezone":                            "UTC",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_session_timeout":                "0",
		"idle_in_transaction_session_timeout": "0",
	} {
		wantSetting(t, conn, name, want)
	}
}

// TestURLChoosesSchemaAndTimeouts checks that a URL may set the search_path and the
// time-outs, as a parameter in any case or in options, but none of the fixed settings.
func TestURLChoosesSchemaAndTimeouts(t *testing.T) {
	t.Parallel()
	databaseURL := testenv.Postgres(t)
	schema := testenv.ParseURL(t, databaseURL).RuntimeParams["search_path"]
	conn := testenv.Connect(t, testenv.ParseURL(t, with(t, databaseURL, "Statement_Timeout", "7min")))
	wantSetting(t, conn, "search_path", schema)
	wantSetting(t, conn, "statement_timeout", "7min")

	inOptions := strings.Replace(databaseURL, "search_path="+schema, "", 1)
	for _, option := range []string{
		"-c search_path=",
		"-csearch_path=",
		"--search-path=",
		"-c geqo=off -c search_path=",
	} {
		conn := testenv.Connect(t, testenv.ParseURL(t, with(t, inOptions, "options", option+schema)))
		wantSetting(t, conn, "search_path", schema)
	}

	if _, err := postgres.ParseURL(with(t, databaseURL, "TimeZone", "utc")); err != nil {
		t.Errorf("a fixed setting with its own value: got %v, want no error", err)
	}
	for name, value := range map[string]string{
		"TimeZone":                      "Europe/Berlin",
		"default_transaction_isolation": "serializable",
		"default_query_exec_mode":       "exec",
	} {
		_, err := postgres.ParseURL(with(t, databaseURL, name, value))
		if err == nil || !strings.Contains(err.Error(), strings.ToLower(name)) {
			t.Errorf("%s=%s: got %v, want an error that names it", name, value, err)
		}
	}
	simple := with(t, databaseURL, "default_query_exec_mode", "simple_protocol")
	if _, err := postgres.ParseURL(simple); err == nil {
		t.Error("default_query_exec_mode=simple_protocol: got no error")
	}
}

// ignored are the parameters that PgBouncer refuses unless it is set to ignore them.
const ignored = "ignore_startup_parameters = search_path, default_transaction_isolation, " +
	"default_transaction_read_only, statement_timeout, lock_timeout, idle_session_timeout, " +
	"idle_in_transaction_session_timeout"

// TestPoolerIsRefused checks that a connection through PgBouncer fails with ErrPooler and
// says why, in each of its pool modes, and that a session mode is not mistaken for
// transaction mode.
func TestPoolerIsRefused(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	tests := map[string]struct {
		settings []string
		says     string
	}{
		"parameters refused": {
			settings: []string{"pool_mode = transaction"},
			says:     "refuses a session with our settings",
		},
		"transaction": {
			settings: []string{"pool_mode = transaction", ignored},
			says:     "transaction mode",
		},
		"transaction, servers in turn": {
			settings: []string{"pool_mode = transaction", ignored, "server_round_robin = 1"},
			says:     "transaction mode",
		},
		"transaction, one server": {
			settings: []string{"pool_mode = transaction", ignored, "default_pool_size = 1"},
			says:     "transaction mode",
		},
		"statement": {
			settings: []string{"pool_mode = statement", ignored},
			says:     "refuses a session",
		},
		"session": {
			settings: []string{"pool_mode = session", ignored},
			says:     "does not pass on our settings",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := testenv.ParseURL(t, testenv.PgBouncer(t, server, test.settings...))
			conn, err := pgx.ConnectConfig(t.Context(), config)
			if err == nil {
				_ = conn.Close(t.Context())
				t.Fatal("got no error")
			}
			err = postgres.ExplainConnect(err)
			if !errors.Is(err, postgres.ErrPooler) {
				t.Errorf("got %v, want ErrPooler", err)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want it to contain %q", err, test.says)
			}
		})
	}
}

// TestErrorsDoNotQuoteTheURL checks that no part of a URL with a typing error appears in
// the error: any part may be a part of the password.
func TestErrorsDoNotQuoteTheURL(t *testing.T) {
	t.Parallel()
	for _, databaseURL := range []string{
		"postgres://app:s3cret#x@host/inventory",
		"postgres://app:1234#s3cret@host/inventory",
		"postgres://app:12/s3cret@host/inventory",
		"postgres://app:12?s3cret@host/inventory",
		"postgres://app:s3cret%zz@host/inventory",
		"postgres://app:pw@host:s3cret/inventory",
		"postgres://app:pw@host/inventory?sslmode=s3cret",
		"postgres://app:pw@host/inventory?default_query_exec_mode=s3cret",
		"postgres://app:pw@host/inventory?timezone=s3cret",
		"postgres://app:pw@host/inventory?pool_max_conns=s3cret",
		"host=x password = s3cret port=zz",
		"password=it s3cret",
	} {
		_, err := postgres.ParseURL(databaseURL)
		if err == nil {
			t.Errorf("%s: got no error", databaseURL)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error quotes it: %v", databaseURL, err)
		}
		if !strings.Contains(err.Error(), "STOCKSTREAM_DATABASE_URL") {
			t.Errorf("%s: got %v, want an error that names the variable", databaseURL, err)
		}
	}
}
