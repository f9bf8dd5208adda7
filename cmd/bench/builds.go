package main

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
)

// benchBuilds compares the build to measure with the build at o.against. Both serve the
// role api on the same Redis for the whole benchmark, and take load in turn. So each pair
// of measurements is seconds apart, and the machine changes little in between.
func benchBuilds(ctx context.Context, o options, s *servers) error {
	client := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer client.Close()
	if err := stockHotSKU(ctx, client); err != nil {
		return err
	}
	this, err := launchService(ctx, o, s, "api")
	if err != nil {
		return err
	}
	defer this.stop()
	o.binary = o.against
	other, err := launchService(ctx, o, s, "api")
	if err != nil {
		return err
	}
	defer other.stop()
	for _, connections := range []int{64, 256} {
		if err := compareBuilds(ctx, o, s, this, other, connections); err != nil {
			return err
		}
		if err := client.XTrimMaxLen(ctx, events.MainPool.StreamKey(), 0).Err(); err != nil {
			return err
		}
	}
	return nil
}

// compareBuilds measures two running services in turn, and prints their medians and the
// median of each round's ratio.
func compareBuilds(
	ctx context.Context, o options, s *servers, this, other *serverProcess, connections int,
) error {
	results := map[*serverProcess][]loadResult{}
	order := []*serverProcess{other, this}
	for range o.rounds {
		for _, service := range order {
			pids := []int{os.Getpid(), service.cmd.Process.Pid, s.redis.Pid()}
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
