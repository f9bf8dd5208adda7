package main

import (
	"strings"
	"testing"
)

// TestSkippedAndUnbuiltTestsCountAsFailures checks the counts and the output that is
// printed for each kind of result.
func TestSkippedAndUnbuiltTestsCountAsFailures(t *testing.T) {
	t.Parallel()
	const passing = `{"Action":"pass","Package":"p","Test":"A"}` + "\n" +
		`{"Action":"pass","Package":"p","Elapsed":1.5}` + "\n"
	tests := map[string]struct {
		in   string
		ok   bool
		want []string
	}{
		"passing": {passing, true, []string{"ok    p  1.5s\n", "1 passed, 0 failed\n"}},
		"failing": {
			passing + `{"Action":"output","Package":"p","Test":"B","Output":"why\n"}` + "\n" +
				`{"Action":"fail","Package":"p","Test":"B"}`,
			false,
			[]string{"FAIL  p B\nwhy\n", "1 passed, 1 failed\n"},
		},
		"skipped": {passing + `{"Action":"skip","Package":"p","Test":"B"}`, false,
			[]string{"SKIP  p B\n", "1 passed, 1 failed (1 of them skipped)\n"}},
		"not built": {
			passing + `{"ImportPath":"q","Action":"build-output","Output":"no such thing\n"}` + "\n" +
				`{"Action":"fail","Package":"q","FailedBuild":"q"}`,
			false,
			[]string{"FAIL  q\nno such thing\n", "1 passed, 0 failed\n"},
		},
		"nothing": {"", false, []string{"0 passed, 0 failed\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			ok, err := summarise(strings.NewReader(test.in), &out)
			if ok != test.ok || err != nil {
				t.Errorf("got %t (%v), want %t", ok, err, test.ok)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got %q, want it to contain %q", out.String(), want)
				}
			}
		})
	}
}
