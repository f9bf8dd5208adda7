package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PostgresOptions configure a Postgres server.
type PostgresOptions struct {
	Dir      string            // data directory; created if it does not exist
	Addr     string            // host:port on loopback; "" and port 0 take a free port
	Settings map[string]string // settings of postgresql.conf
	Log      io.Writer         // for the server's log; may be nil
}

// Postgres is a Postgres server in a child process. It listens on loopback only and asks
// for no password.
type Postgres struct {
	*process
	options PostgresOptions
	addr    string
	owner   *owner // nil unless this process runs as root
}

// The user and database that the server is created with; compose.yml uses the same names.
const (
	postgresUser     = "app"
	postgresDatabase = "inventory"
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
	if err := endLeftover(filepath.Join(dir, "postmaster.pid"), "postgres"); err != nil {
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
		"-U", postgresUser,
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
	args := []string{"-D", p.options.Dir, "-h", host, "-p", port, "-c", "unix_socket_directories="}
	for name, value := range p.options.Settings {
		args = append(args, "--"+name+"="+value)
	}
	cmd := exec.Command(program, args...) //nolint:gosec // our own settings
	p.owner.runAs(cmd)
	if err := p.start(cmd); err != nil {
		return err
	}
	return p.await(ctx, p.createDatabase)
}

// createDatabase creates the database if it does not exist. It fails while the server is
// not ready, and if another server answers on its port.
func (p *Postgres) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var dir string
	if err := conn.QueryRow(ctx, `SELECT current_setting('data_directory')`).Scan(&dir); err != nil {
		return err
	}
	if dir != p.options.Dir {
		return fmt.Errorf("another Postgres answers on %s, with the data directory %s", p.addr, dir)
	}
	const query = `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`
	var exists bool
	err = conn.QueryRow(ctx, query, postgresDatabase).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+postgresDatabase)
	return err
}

// Stop shuts the server down in order (Postgres's fast shutdown: it does not wait for its
// clients).
func (p *Postgres) Stop(ctx context.Context) error { return p.stop(ctx, syscall.SIGINT) }

// Addr returns the server's address as host:port.
func (p *Postgres) Addr() string { return p.addr }

// URL returns the database's URL, for pgx and psql.
func (p *Postgres) URL() string { return p.url(postgresDatabase) }

func (p *Postgres) url(database string) string {
	return "postgres://" + postgresUser + "@" + p.addr + "/" + database + "?sslmode=disable"
}

// owner is the user that the server runs as if this process is root, because Postgres
// refuses to run as root.
type owner struct{ uid, gid uint32 }

// findOwner returns the user postgres. On a machine without it, findOwner returns the
// unprivileged user that most systems have.
func findOwner() (*owner, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &owner{uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("Postgres refuses to run as root, and this machine has neither a user postgres nor a user nobody to run it as")
}

// own changes the owner of a path.
func (o *owner) own(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// runAs makes a command run as the owner, in a directory that the owner may enter.
func (o *owner) runAs(cmd *exec.Cmd) {
	cmd.Dir = string(filepath.Separator)
	if o != nil {
		asUser(cmd, o.uid, o.gid, canPassCapabilities())
	}
}
