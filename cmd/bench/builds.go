package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/redis/go-redis/v9"
)

// benchBuilds compares the build to measure with the build at o.against. Each serves the
// role api on a Redis and a Postgres of its own, because the builds may have different
// schemas. They run for the whole benchmark, and take load in turn. So each pair of
// measurements is seconds apart, and the machine changes little in between.
func benchBuilds(ctx context.Context, o options, s *servers) (err error) {
	others, err := startEmptyServers(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, others.stop()) }()
	args := []string{"migrate", "up", "--database-url", others.postgres.URL()}
	migrate := exec.CommandContext(ctx, o.against, args...) //nolint:gosec // the caller named the build
	if out, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("migrate up of the other build: %w: %s", err, out)
	}
	this, err := launchBuild(ctx, o, s)
	if err != nil {
		return err
	}
	defer this.stop()
	o.binary = o.against
	other, err := launchBuild(ctx, o, others)
	if err != nil {
		return err
	}
	defer other.stop()
	for _, connections := range []int{64, 256} {
		if err := compareBuilds(ctx, o, this, other, connections); err != nil {
			return err
		}
	}
	return nil
}

// build is a running service, with its servers.
type build struct {
	*serverProcess
	servers *servers
}

func launchBuild(ctx context.Context, o options, s *servers) (*build, error) {
	client := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer client.Close()
	if err := stockHotSKU(ctx, client); err != nil {
		return nil, err
	}
	process, err := launchService(ctx, o, s, "api")
	if err != nil {
		return nil, err
	}
	return &build{process, s}, nil
}

// compareBuilds measures two running services in turn, and prints their medians and the
// median of each round's ratio.
func compareBuilds(ctx context.Context, o options, this, other *build, connections int) error {
	results := map[*build][]loadResult{}
	order := []*build{other, this}
	for range o.rounds {
		for _, service := range order {
			pids := []int{os.Getpid(), service.cmd.Process.Pid, service.servers.redis.Pid()}
			result, err := measureAccepted(ctx, service.addr, connections, o.seconds, pids...)
			if err != nil {
				return err
			}
			results[service] = append(results[service], result)
		}
		order[0], order[1] = order[1], order[0]
	}
	rate := func(l loadResult) float64 { return l.perSecond }
	cpu := func(l loadResult) float64 {
		return float64((l.cpu[0] + l.cpu[1] + l.cpu[2]).Nanoseconds()) / 1000
	}
	ratios := func(figure func(loadResult) float64) float64 {
		var all []float64
		for i := range o.rounds {
			all = append(all, figure(results[this][i])/figure(results[other][i]))
		}
		return median(all)
	}
	fmt.Printf("\naccepted reserves/s of one hot SKU over HTTP, role api, %d connections\n", connections)
	fmt.Printf("  this build                                  %8.0f\n", medianOf(results[this], rate))
	fmt.Printf("  the other build                             %8.0f\n", medianOf(results[other], rate))
	fmt.Printf("  CPU per reservation of client, server and Redis: this build %.1f µs, the other %.1f µs\n",
		medianOf(results[this], cpu), medianOf(results[other], cpu))
	fmt.Printf("  median ratio of the rounds: rate %.3f, CPU %.3f\n", ratios(rate), ratios(cpu))
	return nil
}
