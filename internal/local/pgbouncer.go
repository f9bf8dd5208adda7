package local

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// PgBouncer is a PgBouncer in a child process, for tests. It gives a client's
// transactions to the sessions that it keeps on a Postgres.
type PgBouncer struct {
	*process
	dir  string
	addr string
}

// StartPgBouncer starts a PgBouncer in front of a Postgres server and waits until it
// answers. settings are lines of pgbouncer.ini.
func StartPgBouncer(ctx context.Context, server *Postgres, settings ...string) (*PgBouncer, error) {
	program, err := pgbouncerProgram()
	if err != nil {
		return nil, err
	}
	dir, err := TempDir("stockstream-pgbouncer-")
	if err != nil {
		return nil, err
	}
	b := &PgBouncer{process: &process{name: "pgbouncer", log: &tail{}}, dir: dir}
	err = startOn("", func(host string, port int) error {
		b.addr = net.JoinHostPort(host, strconv.Itoa(port))
		return b.start(ctx, program, server, settings)
	})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return b, nil
}

func (b *PgBouncer) start(ctx context.Context, program string, server *Postgres, settings []string) error {
	host, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		return err
	}
	serverHost, serverPort, err := net.SplitHostPort(server.addr)
	if err != nil {
		return err
	}
	database := postgresDatabase + " = host=" + serverHost + " port=" + serverPort + " user=" + postgresUser
	lines := append([]string{
		"[databases]",
		database,
		"[pgbouncer]",
		"listen_addr = " + host,
		"listen_port = " + port,
		"unix_socket_dir =",
		"auth_type = any",
	}, settings...)
	config := filepath.Join(b.dir, "pgbouncer.ini")
	text := strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil { //nolint:gosec // has no password
		return err
	}
	cmd := exec.Command(program, config) //nolint:gosec // our own settings
	server.owner.runAs(cmd)              // it refuses to run as root, too
	if err := b.process.start(cmd); err != nil {
		return err
	}
	return b.await(ctx, b.answers)
}

// answers fails until PgBouncer accepts connections.
func (b *PgBouncer) answers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, b.URL())
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL returns the database's URL through PgBouncer.
func (b *PgBouncer) URL() string {
	return "postgres://" + postgresUser + "@" + b.addr + "/" + postgresDatabase + "?sslmode=disable"
}

// Stop shuts PgBouncer down and removes its configuration.
func (b *PgBouncer) Stop(ctx context.Context) error {
	return errors.Join(b.stop(ctx, syscall.SIGINT), os.RemoveAll(b.dir))
}
