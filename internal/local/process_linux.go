package local

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// ownGroup takes the child out of the terminal's reach, and has Linux end it with its parent.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}

// Capabilities, by their numbers in linux/capability.h.
const (
	capDACOverride   = 1
	capDACReadSearch = 2
)

// asUser runs the child as another user that may still enter the directories of this one: the data may lie below a
// home directory that is closed to others.
func asUser(cmd *exec.Cmd, uid, gid uint32, passage bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if passage {
		cmd.SysProcAttr.AmbientCaps = []uintptr{capDACOverride, capDACReadSearch}
	}
}

// mayPass reports whether this process can hand the capabilities of asUser on; containers may have dropped them.
func mayPass() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if hex, found := strings.CutPrefix(line, "CapPrm:"); found {
			held, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			const wanted = 1<<capDACOverride | 1<<capDACReadSearch
			return err == nil && held&wanted == wanted
		}
	}
	return false
}
