package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// cpuTime returns the CPU time that a process has used so far, or 0 on a system without
// /proc.
func cpuTime(pid int) time.Duration {
	const ticksPerSecond = 100 // the unit of /proc on every Linux
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, afterName, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(afterName)
	const user, system = 11, 12 // indexes in the fields after the process's name
	if len(fields) <= system {
		return 0
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// setSchedulingPolicy sets the scheduling policy of this process, the load generator,
// with Linux's chrt. With --other, the default, every answer that arrives lets the load
// generator interrupt the server or Redis. With --batch, it waits for a free CPU instead,
// as if it ran on another machine. Without chrt, nothing changes.
func setSchedulingPolicy(ctx context.Context, policy string) {
	//nolint:gosec // our own process
	_ = exec.CommandContext(ctx, "chrt", policy, "--all-tasks", "--pid", "0", strconv.Itoa(os.Getpid())).Run()
}
