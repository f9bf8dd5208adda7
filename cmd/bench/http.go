package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/projections"
)

// target is a server under measurement, in a process of its own.
type target struct {
	name  string
	addr  string
	ready string
	cmd   *exec.Cmd
}

func launch(ctx context.Context, name, addr, ready, program string, args ...string) (*target, error) {
	t := &target{name: name, addr: addr, ready: ready, cmd: exec.Command(program, args...)} //nolint:gosec // our own programs
	t.cmd.Stderr = os.Stderr
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+ready, nil)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if ready == "/" || response.StatusCode == http.StatusOK {
				return t, nil
			}
		}
		if time.Now().After(deadline) {
			t.stop()
			return nil, fmt.Errorf("%s does not come up", name)
		}
	}
}

func (t *target) stop() {
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	_ = t.cmd.Wait()
}

func freeAddr(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// launchService starts StockStream with some roles, on the run's servers.
func launchService(ctx context.Context, o options, s *servers, roles string) (*target, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	return launch(ctx, "stockstream "+roles, addr, "/readyz", o.binary, "serve", "--roles", roles, "--http-addr", addr,
		"--redis-url", s.redis.URL(), "--database-url", s.postgres.URL(), "--log-level", "error")
}

func launchBaseline(ctx context.Context, kind string, s *servers) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	return launch(ctx, kind, addr, "/", self, "-serve", kind, "-addr", addr, "-database", s.postgres.URL())
}

const everything = "api,journal,projections,sagas"

// benchHTTP measures accepted reservations of one hot SKU. StockStream runs twice: alone with the API, and with all
// roles on the same machine, journal and projections working while it sells.
func benchHTTP(ctx context.Context, o options, s *servers) error {
	conn, err := pgx.Connect(ctx, s.postgres.URL())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, postgresSchema); err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer client.Close()
	if err := client.Set(ctx, events.MainPool.StockKey("hot"), 1_000_000_000, 0).Err(); err != nil {
		return err
	}
	measured := map[string][]load{}
	for range o.rounds {
		for _, connections := range []int{64, 256} {
			for _, name := range []string{"noop", "postgres", "api", everything} {
				done, err := measure(ctx, o, s, name, connections)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				key := fmt.Sprintf("%s/%d", name, connections)
				measured[key] = append(measured[key], done)
				if err := drained(ctx, o, s, client, conn); err != nil {
					return err
				}
			}
		}
	}
	for _, connections := range []int{64, 256} {
		of := func(name string) float64 {
			return medianOf(measured[fmt.Sprintf("%s/%d", name, connections)], func(l load) float64 { return l.perSecond })
		}
		fmt.Printf("\naccepted reserves/s of one hot SKU over HTTP, %d connections\n", connections)
		fmt.Printf("  Gin handler that decodes and does nothing   %8.0f\n", of("noop"))
		fmt.Printf("  one Postgres row                            %8.0f\n", of("postgres"))
		fmt.Printf("  StockStream, role api                       %8.0f\n", of("api"))
		fmt.Printf("  StockStream, all roles                      %8.0f\n", of(everything))
		for _, name := range []string{"noop", "api"} {
			spent := func(process int) float64 {
				return medianOf(measured[fmt.Sprintf("%s/%d", name, connections)], func(l load) float64 { return float64(l.cpu[process].Nanoseconds()) / 1000 })
			}
			fmt.Printf("  CPU per reservation, %s: client %.1f µs, server %.1f µs, Redis %.1f µs\n", name, spent(0), spent(1), spent(2))
		}
		goal("role api / Gin handler", of("api")/of("noop"), 0.5)
		goal("all roles / Gin handler", of(everything)/of("noop"), 0.5)
		goal("role api / Postgres row", of("api")/of("postgres"), 15)
		goal("all roles / Postgres row", of(everything)/of("postgres"), 15)
	}
	return nil
}

func measure(ctx context.Context, o options, s *servers, name string, connections int) (load, error) {
	var t *target
	var err error
	if name == "noop" || name == "postgres" {
		t, err = launchBaseline(ctx, name, s)
	} else {
		t, err = launchService(ctx, o, s, name)
	}
	if err != nil {
		return load{}, err
	}
	defer t.stop()
	return accepted(ctx, t.addr, connections, o.seconds, os.Getpid(), t.cmd.Process.Pid, s.redis.Pid())
}

// drained brings the read side level with what was sold, so that no measurement pays for the one before, and takes
// what is in the journal off the stream.
func drained(ctx context.Context, o options, s *servers, client *redis.Client, conn *pgx.Conn) error {
	log, err := stream.ReadHead(ctx, client, events.MainPool)
	if err != nil {
		return err
	}
	if log.Seq == 0 || projectedTo(ctx, conn, log.Seq) == nil {
		return nil
	}
	t, err := launchService(ctx, o, s, "journal,projections")
	if err != nil {
		return err
	}
	defer t.stop()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := projectedTo(ctx, conn, log.Seq)
		if err == nil {
			return client.XTrimMaxLen(ctx, events.MainPool.StreamKey(), 0).Err()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
	}
}

// projectedTo fails unless the journal and every projection have come to a seq.
func projectedTo(ctx context.Context, conn *pgx.Conn, seq int64) error {
	var readers, least int64
	if err := conn.QueryRow(ctx, `SELECT count(*), coalesce(min(seq), 0) FROM checkpoints`).Scan(&readers, &least); err != nil {
		return err
	}
	if want := int64(1 + len(projections.BuiltIn())); readers < want || least < seq {
		return fmt.Errorf("%d of %d readers, the slowest at %d of %d", readers, want, least, seq)
	}
	return nil
}
