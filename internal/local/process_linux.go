package local

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
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

// Numbers of capabilities, from linux/capability.h.
const (
	capDACOverride   = 1
	capDACReadSearch = 2
)

// asUser makes the child run as another user. With passCapabilities, that user may enter
// every directory: the data may be below a home directory that is closed to other users.
func asUser(cmd *exec.Cmd, uid, gid uint32, passCapabilities bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if passCapabilities {
		cmd.SysProcAttr.AmbientCaps = []uintptr{capDACOverride, capDACReadSearch}
	}
}

// canPassCapabilities reports whether this process has the capabilities that asUser
// passes on. Containers may lack them.
func canPassCapabilities() bool {
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
