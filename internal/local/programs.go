package local

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sort"
)

// CheckInstalled returns an error that names every missing server program and how to
// install it.
func CheckInstalled() error {
	_, redisErr := redisServer()
	_, postgresErr := postgresProgram("postgres")
	return errors.Join(redisErr, postgresErr)
}

func redisServer() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is not installed: run `make deps` (Debian: redis-server, Homebrew: redis)")
	}
	return path, nil
}

func pgbouncerProgram() (string, error) {
	// Debian's folder of servers may be missing in PATH.
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("pgbouncer is not installed: run `make deps` (Debian and Homebrew: pgbouncer)")
}

// postgresProgram returns the path of one of Postgres's programs. Debian and Homebrew
// keep those of the server in a directory per version, which is not in PATH.
func postgresProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	folders := []string{
		"/usr/lib/postgresql/*/bin/",
		"/opt/homebrew/opt/postgresql*/bin/",
		"/usr/local/opt/postgresql*/bin/",
	}
	var found []string
	for _, folder := range folders {
		paths, err := filepath.Glob(folder + name)
		if err != nil {
			return "", fmt.Errorf("look for %s: %w", name, err)
		}
		found = append(found, paths...)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("%s is not installed: run `make deps` (Debian: postgresql, Homebrew: postgresql@17)", name)
	}
	sort.Strings(found) // sorts by version, since all versions have two digits
	return found[len(found)-1], nil
}
