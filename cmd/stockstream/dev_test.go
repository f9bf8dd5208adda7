package main

import (
	"io"
	"strings"
	"testing"
)

// TestSecondDevInTheSameDirectoryIsRefused holds the lock of a data directory, as a
// running `stockstream dev` does.
func TestSecondDevInTheSameDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	err = run(t.Context(), []string{"dev", "--dir", dir}, nil, io.Discard, io.Discard)
	const want = "another `stockstream dev` runs"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one that contains %q", err, want)
	}
}
