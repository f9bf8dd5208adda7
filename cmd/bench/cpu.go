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

// cpuTime is what a process has used so far. It is 0 where /proc does not tell.
func cpuTime(pid int) time.Duration {
	const ticksPerSecond = 100 // of /proc, on every Linux
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, behindName, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(behindName)
	const user, system = 11, 12 // counted from the process's state
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

// giveWay sets how this process, the load generator, is scheduled. Under --batch it waits for a CPU to be free when an
// answer wakes it; under --other it takes one from the server or from Redis in the middle of their work, and every
// answer wakes it, as if the crowd were sitting on the shop's own machine. What is started under --other is scheduled as
// usual. Without chrt, which is Linux's, nothing changes.
func giveWay(ctx context.Context, policy string) {
	//nolint:gosec // our own process
	_ = exec.CommandContext(ctx, "chrt", policy, "--all-tasks", "--pid", "0", strconv.Itoa(os.Getpid())).Run()
}
