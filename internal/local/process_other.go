//go:build !linux

package local

import (
	"os/exec"
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

// asUser makes the child run as another user.
func asUser(cmd *exec.Cmd, uid, gid uint32, _ bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
}

func canPassCapabilities() bool { return false }
