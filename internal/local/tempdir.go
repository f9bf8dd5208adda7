package local

import "os"

// TempDir creates a temporary directory for the data of servers. Only this user may list
// it, but other users may enter it: Postgres refuses to run as root.
func TempDir(pattern string) (string, error) {
	dir, err := os.MkdirTemp("", pattern)
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) //nolint:gosec // the servers' own directories in it are closed
}
