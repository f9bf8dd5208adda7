package local

import (
	"fmt"
	"os/exec"
	"syscall"
)

// ownGroup puts the child into a process group of its own, so that Ctrl-C does not reach
// it. Linux sends it SIGTERM when its parent dies.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}

// workingDirectory returns the path of a process's working directory.
func workingDirectory(pid int) string { return fmt.Sprintf("/proc/%d/cwd", pid) }
