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

// serverProcess is a measured server, which runs as a child process.
type serverProcess struct {
	name  string
	addr  string
	ready string
	cmd   *exec.Cmd
}

// launch starts a server and waits until it answers GET ready: with 200, or with any
// status if ready is "/".
func launch(ctx context.Context, name, addr, ready, program string, args ...string) (*serverProcess, error) {
	t := &serverProcess{
		name:  name,
		addr:  addr,
		ready: ready,
		cmd:   exec.Command(program, args...), //nolint:gosec // our own programs
	}
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
			return nil, fmt.Errorf("%s does not answer within 15 s", name)
		}
	}
}

func (t *serverProcess) stop() {
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

// launchService starts StockStream with the given roles on the benchmark's Redis and
// Postgres.
func launchService(ctx context.Context, o options, s *servers, roles string) (*serverProcess, error) {
	addr, err := freeAddr(ctx)
	if err != nil {
		return nil, err
	}
	args := []string{
		"serve",
		"--roles", roles,
		"--http-addr", addr,
		"--redis-url", s.redis.URL(),
		"--database-url", s.postgres.URL(),
		"--log-level", "error",
	}
	return launch(ctx, "stockstream "+roles, addr, "/readyz", o.binary, args...)
}

func launchBaseline(ctx context.Context, kind string, s *servers) (*serverProcess, error) {
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

const allRoles = "api,journal,projections,sagas"

// benchHTTP measures the accepted reservations of one SKU per second. It measures
// StockStream twice: with the role api only, and with all roles, so that the journal and
// the projections work on the same machine during the sale.
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
	if err := stockHotSKU(ctx, client); err != nil {
		return err
	}
	measured := map[string][]loadResult{}
	for range o.rounds {
		for _, connections := range []int{64, 256} {
			for _, name := range []string{"noop", "postgres", "api", allRoles} {
				done, err := measureServer(ctx, o, s, name, connections)
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				key := fmt.Sprintf("%s/%d", name, connections)
				measured[key] = append(measured[key], done)
				if err := catchUp(ctx, o, s, client, conn); err != nil {
					return err
				}
			}
		}
	}
	for _, connections := range []int{64, 256} {
		resultsOf := func(name string) []loadResult {
			return measured[fmt.Sprintf("%s/%d", name, connections)]
		}
		of := func(name string) float64 {
			return medianOf(resultsOf(name), func(l loadResult) float64 { return l.perSecond })
		}
		fmt.Printf("\naccepted reserves/s of one hot SKU over HTTP, %d connections\n", connections)
		fmt.Printf("  Gin handler that decodes and does nothing   %8.0f\n", of("noop"))
		fmt.Printf("  one Postgres row                            %8.0f\n", of("postgres"))
		fmt.Printf("  StockStream, role api                       %8.0f\n", of("api"))
		fmt.Printf("  StockStream, all roles                      %8.0f\n", of(allRoles))
		for _, name := range []string{"noop", "api"} {
			spent := func(process int) float64 {
				results := measured[fmt.Sprintf("%s/%d", name, connections)]
				return medianOf(results, func(l loadResult) float64 {
					return float64(l.cpu[process].Nanoseconds()) / 1000
				})
			}
			fmt.Printf("  CPU per reservation, %s: client %.1f µs, server %.1f µs, Redis %.1f µs\n",
				name, spent(0), spent(1), spent(2))
		}
		printGoal("role api / Gin handler", of("api")/of("noop"), 0.5)
		printGoal("all roles / Gin handler", of(allRoles)/of("noop"), 0.5)
		printGoal("role api / Postgres row", of("api")/of("postgres"), 15)
		printGoal("all roles / Postgres row", of(allRoles)/of("postgres"), 15)
	}
	return nil
}

func measureServer(
	ctx context.Context, o options, s *servers, name string, connections int,
) (loadResult, error) {
	var t *serverProcess
	var err error
	if name == "noop" || name == "postgres" {
		t, err = launchBaseline(ctx, name, s)
	} else {
		t, err = launchService(ctx, o, s, name)
	}
	if err != nil {
		return loadResult{}, err
	}
	defer t.stop()
	pids := []int{os.Getpid(), t.cmd.Process.Pid, s.redis.Pid()}
	return measureAccepted(ctx, t.addr, connections, o.seconds, pids...)
}

// catchUp journals and projects all events, and then empties the stream. So the next
// measurement does not share the machine with work that this one left.
func catchUp(ctx context.Context, o options, s *servers, client *redis.Client, conn *pgx.Conn) error {
	log, err := stream.ReadHead(ctx, client, events.MainPool)
	if err != nil {
		return err
	}
	if log.Seq == 0 || checkCaughtUp(ctx, conn, log.Seq) == nil {
		return nil
	}
	t, err := launchService(ctx, o, s, "journal,projections")
	if err != nil {
		return err
	}
	defer t.stop()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := checkCaughtUp(ctx, conn, log.Seq)
		if err == nil {
			return client.XTrimMaxLen(ctx, events.MainPool.StreamKey(), 0).Err()
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
	}
}

// checkCaughtUp fails unless the journal and every projection have reached seq.
func checkCaughtUp(ctx context.Context, conn *pgx.Conn, seq int64) error {
	var readers, lowest int64
	const query = `SELECT count(*), coalesce(min(seq), 0) FROM checkpoints`
	if err := conn.QueryRow(ctx, query).Scan(&readers, &lowest); err != nil {
		return err
	}
	if want := int64(1 + len(projections.BuiltIn())); readers < want || lowest < seq {
		return fmt.Errorf("%d of %d readers have a checkpoint, and the lowest is at seq %d of %d",
			readers, want, lowest, seq)
	}
	return nil
}
