package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/internal/postgres"
)

// PostgresOptions configure a Postgres server.
type PostgresOptions struct {
	Dir      string            // data directory; created if it does not exist
	Addr     string            // host:port on loopback; "" and port 0 take a free port
	Settings map[string]string // settings of postgresql.conf
	Log      io.Writer         // for the server's log; may be nil
}

// Postgres is a Postgres server in a child process. Over TCP, on loopback only, it lets
// in the role app, without a password and only to its database. The superuser connects
// through a Unix socket in a directory that is closed to other users: a superuser may run
// programs and read files.
type Postgres struct {
	*process
	options   PostgresOptions
	addr      string
	owner     *owner // nil unless this process runs as root
	socketDir string
}

// The roles and the database that the server is created with; compose.yml uses the same
// names.
const (
	postgresSuperuser = "postgres"
	postgresUser      = "app"
	postgresDatabase  = "inventory"
)

// StartPostgres starts a Postgres server and waits until its database accepts
// connections. It runs initdb first if the data directory is new.
func StartPostgres(ctx context.Context, options PostgresOptions) (*Postgres, error) {
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	options.Dir = dir
	p := &Postgres{process: &process{name: "postgres", log: &tail{next: options.Log}}, options: options}
	if os.Geteuid() == 0 {
		if p.owner, err = findOwner(); err != nil {
			return nil, err
		}
	}
	if err := p.owner.checkPath(dir); err != nil {
		return nil, err
	}
	if err := endLeftover(filepath.Join(dir, "postmaster.pid"), "postgres", dir); err != nil {
		return nil, err
	}
	if err := p.initialise(ctx); err != nil {
		return nil, err
	}
	err = startOn(options.Addr, func(host string, port int) error {
		p.addr = net.JoinHostPort(host, strconv.Itoa(port))
		return p.Start(ctx)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// initialise runs initdb if the data directory has no database yet. It does so in a
// directory beside it, which it renames at the end: an interrupted start leaves no
// half-made database behind.
func (p *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.options.Dir, "PG_VERSION")); err == nil {
		return nil
	}
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.options.Dir), 0o700); err != nil {
		return fmt.Errorf("prepare the data directory of Postgres: %w", err)
	}
	newDir := p.options.Dir + ".new"
	if err := errors.Join(os.RemoveAll(newDir), os.Mkdir(newDir, 0o700), p.owner.own(newDir)); err != nil {
		return fmt.Errorf("prepare the data directory of Postgres: %w", err)
	}
	args := []string{
		"-D", newDir,
		"-U", postgresSuperuser,
		"--auth", "trust",
		"-E", "UTF8",
		"--locale", "C",
		"--no-sync",
	}
	cmd := exec.CommandContext(ctx, initdb, args...) //nolint:gosec // our own settings
	p.owner.runAs(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	_ = os.Remove(p.options.Dir) // removes an empty directory; if it is not empty, the rename fails
	if err := os.Rename(newDir, p.options.Dir); err != nil {
		return fmt.Errorf("prepare the data directory of Postgres: %w", err)
	}
	return nil
}

// prepareSocket chooses the directory of the Unix socket: the data directory, which
// Postgres requires to be closed to other users. If its path is too long for a socket, it
// makes a temporary directory, which is as closed.
func (p *Postgres) prepareSocket() (err error) {
	const pathMax = 103 // on macOS, the system with the least
	p.socketDir = p.options.Dir
	if len(p.socketPath(65535)) <= pathMax {
		return nil
	}
	if p.socketDir, err = os.MkdirTemp("", "stockstream-"); err != nil {
		return err
	}
	return p.owner.own(p.socketDir)
}

func (p *Postgres) socketPath(port int) string {
	return filepath.Join(p.socketDir, fmt.Sprintf(".s.PGSQL.%d", port))
}

// accessRules are the rules of pg_hba.conf. The first one is for the superuser; the
// socket's directory is closed to other users.
const accessRules = "local all all trust\n" +
	"host " + postgresDatabase + " " + postgresUser + " samehost trust\n"

// writeAccessRules replaces the rules of pg_hba.conf. An older build let every local user
// connect as every role.
func (p *Postgres) writeAccessRules() error {
	path := filepath.Join(p.options.Dir, "pg_hba.conf")
	if err := os.WriteFile(path, []byte(accessRules), 0o600); err != nil {
		return fmt.Errorf("write the access rules of Postgres: %w", err)
	}
	return p.owner.own(path)
}

// Start starts a stopped or killed server again, on the same data and port.
func (p *Postgres) Start(ctx context.Context) error {
	program, err := postgresProgram("postgres")
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		return err
	}
	if err := p.prepareSocket(); err != nil {
		return fmt.Errorf("prepare the socket of Postgres: %w", err)
	}
	if err := p.writeAccessRules(); err != nil {
		return err
	}
	args := []string{
		"-D", p.options.Dir,
		"-h", host,
		"-p", port,
		"-c", `unix_socket_directories="` + p.socketDir + `"`,
	}
	for name, value := range p.options.Settings {
		args = append(args, "--"+name+"="+value)
	}
	cmd := exec.Command(program, args...) //nolint:gosec // our own settings
	p.owner.runAs(cmd)
	if err := p.start(cmd); err != nil {
		return err
	}
	return p.await(ctx, p.prepareRoles)
}

// prepareRoles creates the role and the database of the service if they do not exist. It
// fails while the server is not ready.
func (p *Postgres) prepareRoles(ctx context.Context) error {
	conn, err := p.connect(ctx, postgresSuperuser, "postgres")
	if postgres.IsCode(err, postgres.InvalidAuthorization) { // the role does not exist
		if err := p.demoteApp(ctx); err != nil {
			return fmt.Errorf("take the rights of a superuser from the role %s, which an older build gave it: %w",
				postgresUser, err)
		}
		conn, err = p.connect(ctx, postgresSuperuser, "postgres")
	}
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var haveRole, haveDatabase bool
	const query = `
		SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1),
		       EXISTS (SELECT FROM pg_database WHERE datname = $2)`
	err = conn.QueryRow(ctx, query, postgresUser, postgresDatabase).Scan(&haveRole, &haveDatabase)
	if err != nil {
		return err
	}
	statements := []string{"DROP ROLE IF EXISTS " + demoter}
	if !haveRole {
		statements = append(statements, "CREATE ROLE "+postgresUser+" LOGIN")
	}
	if !haveDatabase {
		statements = append(statements, "CREATE DATABASE "+postgresDatabase+" OWNER "+postgresUser)
	}
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// connect opens a session through the Unix socket.
func (p *Postgres) connect(ctx context.Context, role, database string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(p.socketURL(role, database))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, config)
}

func (p *Postgres) socketURL(role, database string) string {
	_, port, _ := net.SplitHostPort(p.addr)
	socket := url.Values{"host": {p.socketDir}, "port": {port}}.Encode()
	return "postgres://" + role + "@/" + database + "?" + strings.ReplaceAll(socket, "+", "%20")
}

// demoter is the role that demoteApp works as: a role cannot rename itself.
const demoter = "stockstream_demoter"

// demoteApp converts the data directory of an older build, whose role app was the
// superuser that initdb made. That role becomes postgres, and a new role app without its
// rights gets the database and all that is in it. An interrupted call may be repeated.
func (p *Postgres) demoteApp(ctx context.Context) error {
	conn, err := p.connect(ctx, postgresUser, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range []string{
		"DROP ROLE IF EXISTS " + demoter,
		"CREATE ROLE " + demoter + " LOGIN SUPERUSER",
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	var exists bool
	const query = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`
	if err := conn.QueryRow(ctx, query, postgresDatabase).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := conn.Exec(ctx, "CREATE DATABASE "+postgresDatabase); err != nil {
			return err
		}
	}
	inDatabase, err := p.connect(ctx, demoter, postgresDatabase)
	if err != nil {
		return err
	}
	defer inDatabase.Close(ctx)
	_, err = inDatabase.Exec(ctx, `
		BEGIN;
		ALTER ROLE app RENAME TO postgres;
		CREATE ROLE app LOGIN;
		ALTER DATABASE inventory OWNER TO app;
		DO $$
		DECLARE
			statement text;
		BEGIN
			FOR statement IN
				SELECT format('ALTER SCHEMA %I OWNER TO app', nspname) FROM pg_namespace
				WHERE nspowner = 'postgres'::regrole
				  AND nspname !~ '^pg_' AND nspname <> 'information_schema'
				UNION ALL
				SELECT format('ALTER TABLE %s OWNER TO app', c.oid::regclass)
				FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE relowner = 'postgres'::regrole AND relkind IN ('r', 'p', 'v', 'm', 'S')
				  AND nspname !~ '^pg_' AND nspname <> 'information_schema'
				  -- the sequence of a column belongs to the owner of the table
				  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('a', 'i') AND relkind = 'S')
			LOOP
				EXECUTE statement;
			END LOOP;
		END $$;
		COMMIT`)
	return err
}

// Stop shuts the server down in order (Postgres's fast shutdown: it does not wait for its
// clients).
func (p *Postgres) Stop(ctx context.Context) error {
	err := p.stop(ctx, syscall.SIGINT)
	if p.socketDir != p.options.Dir {
		err = errors.Join(err, os.RemoveAll(p.socketDir))
	}
	return err
}

// Addr returns the server's address as host:port.
func (p *Postgres) Addr() string { return p.addr }

// URL returns the database's URL, for pgx and psql, as the role of the service.
func (p *Postgres) URL() string {
	return "postgres://" + postgresUser + "@" + p.addr + "/" + postgresDatabase + "?sslmode=disable"
}

// SuperuserURL returns the database's URL through the Unix socket, as the superuser.
func (p *Postgres) SuperuserURL() string { return p.socketURL(postgresSuperuser, postgresDatabase) }
