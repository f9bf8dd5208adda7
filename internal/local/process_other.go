//go:build !linux

package local

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// ownGroup puts the child into a process group of its own, so that Ctrl-C does not reach
// it. A child that outlives its parent is stopped by the next start on the same
// directory.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// workingDirectory returns the path of a process's working directory, or "" if lsof does
// not show it.
func workingDirectory(pid int) string {
	lsof := exec.Command("lsof", "-a", "-d", "cwd", "-Fn", "-p", strconv.Itoa(pid)) //nolint:gosec // a number
	out, _ := lsof.Output()
	for line := range strings.Lines(string(out)) {
		if path, found := strings.CutPrefix(strings.TrimSpace(line), "n"); found {
			return path
		}
	}
	return ""
}
