package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// owner is the user that Postgres runs as if this process is root, because Postgres
// refuses to run as root.
type owner struct {
	name     string
	uid, gid uint32
}

// findOwner returns the user postgres. On a machine without it, findOwner returns the
// unprivileged user that most systems have.
func findOwner() (*owner, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &owner{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("Postgres refuses to run as root, and this machine has neither a user postgres nor a user nobody to run it as")
}

// own changes the owner of a path.
func (o *owner) own(path string) error {
	if o == nil {
		return nil
	}
	return os.Chown(path, int(o.uid), int(o.gid))
}

// runAs makes a command run as the owner, without any capability of root's, in a
// directory that the owner may enter.
func (o *owner) runAs(cmd *exec.Cmd) {
	cmd.Dir = string(filepath.Separator)
	if o != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: o.uid, Gid: o.gid}}
	}
}

// checkPath fails if the owner may not enter a folder above dir, such as the home
// directory of root.
func (o *owner) checkPath(dir string) error {
	if o == nil {
		return nil
	}
	for folder := filepath.Dir(dir); ; folder = filepath.Dir(folder) {
		info, err := os.Stat(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && !o.mayEnter(info) {
			const format = "Postgres refuses to run as root, so it runs as the user %[1]s, who may not enter %[2]s; " +
				"use another directory (stockstream dev --dir), or run this as another user than root, or run: chmod o+x %[2]s"
			return fmt.Errorf(format, o.name, folder)
		}
		if folder == filepath.Dir(folder) {
			return nil
		}
	}
}

func (o *owner) mayEnter(info fs.FileInfo) bool {
	const ownerBit, groupBit, otherBit = 0o100, 0o010, 0o001
	bit := fs.FileMode(otherBit)
	if stat, isUnix := info.Sys().(*syscall.Stat_t); isUnix && stat.Uid == o.uid {
		bit = ownerBit
	} else if isUnix && stat.Gid == o.gid {
		bit = groupBit
	}
	return info.Mode()&bit != 0
}
