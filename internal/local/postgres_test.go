package local_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/local"
	"github.com/stockstream/stockstream/internal/testenv"
)

func startPostgres(t *testing.T, dir string) *local.Postgres {
	t.Helper()
	server, err := local.StartPostgres(t.Context(), local.PostgresOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	return server
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// wantOnlyAppOverTCP checks that the role of the service is no superuser and owns its
// database, that no other role and no other database is reached over TCP, and that the
// superuser is reached through a socket in a closed directory.
func wantOnlyAppOverTCP(t *testing.T, server *local.Postgres) {
	t.Helper()
	conn := connect(t, server.URL())
	var rights string
	const query = `
		SELECT format('super %s, createrole %s, createdb %s, owner %s', rolsuper, rolcreaterole, rolcreatedb, rolname = (
		    SELECT datdba::regrole::text FROM pg_database WHERE datname = current_database()))
		FROM pg_roles WHERE rolname = current_user`
	if err := conn.QueryRow(t.Context(), query).Scan(&rights); err != nil {
		t.Fatal(err)
	}
	if want := "super f, createrole f, createdb f, owner t"; rights != want {
		t.Errorf("role of the service: got %s, want %s", rights, want)
	}
	for _, sql := range []string{
		`COPY (SELECT 'x') TO PROGRAM 'cat'`,
		`SELECT pg_read_file('/etc/hostname')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: got no error", sql)
		}
	}
	for _, url := range []string{
		strings.Replace(server.URL(), "app@", "postgres@", 1),
		strings.Replace(server.URL(), "/inventory", "/postgres", 1),
	} {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			t.Errorf("%s: got no error", url)
			_ = conn.Close(t.Context())
		}
	}
	superuser := connect(t, server.SuperuserURL())
	var isSuperuser, socketDir string
	const settings = `SELECT current_setting('is_superuser'), current_setting('unix_socket_directories')`
	if err := superuser.QueryRow(t.Context(), settings).Scan(&isSuperuser, &socketDir); err != nil {
		t.Fatal(err)
	}
	if isSuperuser != "on" {
		t.Errorf("through the socket: is_superuser is %s, want on", isSuperuser)
	}
	info, err := os.Stat(strings.Trim(socketDir, `"`))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket: got mode %v, want 0700", info.Mode())
	}
}

// TestLocalUsersAreNoSuperusers checks the rights of local users, also with a path that
// is too long for a socket.
func TestLocalUsersAreNoSuperusers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"postgres", strings.Repeat("long", 25)} {
		wantOnlyAppOverTCP(t, startPostgres(t, filepath.Join(testenv.TempDir(t), name)))
	}
}

// TestPostgresHasNoCapabilities checks that the server's process has none of the
// capabilities of this process, which may be root.
func TestPostgresHasNoCapabilities(t *testing.T) {
	t.Parallel()
	server := startPostgres(t, filepath.Join(testenv.TempDir(t), "postgres"))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Pid()))
	if os.IsNotExist(err) {
		return // not Linux, which has no capabilities
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CapPrm", "CapEff", "CapAmb"} {
		if want := name + ":\t0000000000000000\n"; !strings.Contains(string(status), want) {
			t.Errorf("got the status\n%s\nwant %s to be 0", status, name)
		}
	}
}

// TestClosedDirectoryIsNamed checks that a start as root names a directory that the user
// of Postgres may not enter.
func TestClosedDirectoryIsNamed(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(testenv.TempDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	options := local.PostgresOptions{Dir: filepath.Join(closed, "postgres")}
	server, err := local.StartPostgres(t.Context(), options)
	if os.Geteuid() != 0 { // the directory is this user's own
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Kill() })
		return
	}
	if err == nil || !strings.Contains(err.Error(), "may not enter "+closed) {
		t.Errorf("got %v, want an error that names %s", err, closed)
	}
}

// TestDirectoryOfAnOlderBuildIsConverted makes a data directory as older builds did: its
// role app is the superuser, and has tables, a view and sequences in two schemas. It
// checks that the start takes the rights from app, and that app still owns all of it.
func TestDirectoryOfAnOlderBuildIsConverted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testenv.TempDir(t), "postgres")
	old := startPostgres(t, dir)
	superuser := connect(t, old.SuperuserURL())
	for _, sql := range []string{
		`ALTER DATABASE inventory OWNER TO postgres`,
		`DROP ROLE app`,
		`CREATE ROLE other LOGIN SUPERUSER`,
	} {
		if _, err := superuser.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	other := connect(t, strings.Replace(old.SuperuserURL(), "postgres@", "other@", 1))
	if _, err := other.Exec(t.Context(), `ALTER ROLE postgres RENAME TO app`); err != nil {
		t.Fatal(err)
	}
	app := connect(t, strings.Replace(old.SuperuserURL(), "postgres@", "app@", 1))
	_, err := app.Exec(t.Context(), `
		DROP ROLE other;
		CREATE TABLE sold (id bigint GENERATED ALWAYS AS IDENTITY, nr serial);
		CREATE VIEW all_sold AS SELECT * FROM sold;
		CREATE SEQUENCE numbers;
		CREATE SCHEMA stockstream_old;
		CREATE TABLE stockstream_old.sold (nr serial);
		INSERT INTO sold DEFAULT VALUES`)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		server := startPostgres(t, dir)
		wantOnlyAppOverTCP(t, server)
		conn := connect(t, server.URL())
		var foreign string
		const query = `
			SELECT coalesce(string_agg(c.oid::regclass || ' of ' || relowner::regrole, ', '), '')
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE nspname IN ('public', 'stockstream_old') AND relowner <> 'app'::regrole`
		if err := conn.QueryRow(t.Context(), query).Scan(&foreign); err != nil {
			t.Fatal(err)
		}
		if foreign != "" {
			t.Errorf("app does not own %s", foreign)
		}
		const use = `INSERT INTO sold DEFAULT VALUES; DROP SCHEMA stockstream_old CASCADE; CREATE SCHEMA stockstream_old`
		if _, err := conn.Exec(t.Context(), use); err != nil {
			t.Errorf("use the tables: %v", err)
		}
		roles := connect(t, server.SuperuserURL())
		var superusers string
		const superusersQuery = `SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper`
		if err := roles.QueryRow(t.Context(), superusersQuery).Scan(&superusers); err != nil {
			t.Fatal(err)
		}
		if superusers != "postgres" {
			t.Errorf("superusers: got %s, want postgres", superusers)
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
