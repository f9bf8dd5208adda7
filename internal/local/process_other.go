//go:build !linux

package local

import (
	"os/exec"
	"syscall"
)

// ownGroup takes the child out of the terminal's reach. A child that outlives its parent is stopped at the next start.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}

// asUser runs the child as another user.
func asUser(cmd *exec.Cmd, uid, gid uint32, _ bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
}

func mayPass() bool { return false }
