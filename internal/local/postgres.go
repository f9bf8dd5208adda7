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

// PostgresOptions say how to run a Postgres.
type PostgresOptions struct {
	Dir      string            // where its data lie; made where missing
	Addr     string            // host:port on loopback; a free port for "" and for port 0
	Settings map[string]string // of postgresql.conf
	Log      io.Writer         // may be nil
}

// Postgres is a server of its own. It listens on loopback only and trusts who comes from there.
type Postgres struct {
	*process
	options PostgresOptions
	addr    string
	owner   *owner // nil unless this process is root
}

// What the server is set up with; compose.yml uses the same names.
const (
	postgresUser     = "app"
	postgresDatabase = "inventory"
)

// StartPostgres starts a Postgres, sets up its data directory where it is new, and waits until it can be worked with.
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

// initialise runs initdb on a directory that has no database yet. It works in a neighbour of the directory, so that a
// start that was broken off leaves nothing that looks finished.
func (p *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.options.Dir, "PG_VERSION")); err == nil {
		return nil
	}
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.options.Dir), 0o700); err != nil {
		return fmt.Errorf("directory for Postgres: %w", err)
	}
	fresh := p.options.Dir + ".new"
	if err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o700), p.owner.own(fresh)); err != nil {
		return fmt.Errorf("directory for Postgres: %w", err)
	}
	cmd := exec.CommandContext(ctx, initdb, "-D", fresh, "-U", postgresUser, "--auth", "trust", "-E", "UTF8", "--locale", "C", "--no-sync") //nolint:gosec // our own settings
	p.owner.lend(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	_ = os.Remove(p.options.Dir) // an empty directory may stand in the way; a full one fails the rename
	if err := os.Rename(fresh, p.options.Dir); err != nil {
		return fmt.Errorf("directory for Postgres: %w", err)
	}
	return nil
}

// Start starts a server that was stopped or killed, on the same data and the same port.
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
	p.owner.lend(cmd)
	if err := p.start(cmd); err != nil {
		return err
	}
	return p.await(ctx, p.createDatabase)
}

// createDatabase makes the database where it is missing; that it can is how we know that the server works.
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
		return fmt.Errorf("the Postgres that answers on %s is another (of %s)", p.addr, dir)
	}
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, postgresDatabase).Scan(&exists); err != nil || exists {
		return err
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+postgresDatabase)
	return err
}

// Stop asks the server to end in good order, without waiting for its clients.
func (p *Postgres) Stop(ctx context.Context) error { return p.stop(ctx, syscall.SIGINT) }

// Addr is host:port.
func (p *Postgres) Addr() string { return p.addr }

// URL is what pgx and psql take.
func (p *Postgres) URL() string { return p.url(postgresDatabase) }

func (p *Postgres) url(database string) string {
	return "postgres://" + postgresUser + "@" + p.addr + "/" + database + "?sslmode=disable"
}

// owner is the user that a Postgres of root's runs as, since it refuses to run as root.
type owner struct{ uid, gid uint32 }

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
	return nil, errors.New("postgres refuses to run as root, and there is no user postgres or nobody to run it as")
}

// own gives a path to the owner.
func (o *owner) own(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// lend has a command run as the owner, from a directory that it can enter.
func (o *owner) lend(cmd *exec.Cmd) {
	cmd.Dir = string(filepath.Separator)
	if o != nil {
		asUser(cmd, o.uid, o.gid, mayPass())
	}
}
