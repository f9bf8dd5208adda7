package plainjson

import "testing"

// TestObject holds the cases that the tests of events and of httpapi, which compare with encoding/json, do not come by.
func TestObject(t *testing.T) {
	t.Parallel()
	for want, got := range map[string]Object{
		`{}`:                                nil,
		`{"n":0}`:                           Object(nil).Int("n", 0),
		`{"t":"\u003ca\u003e\n\"é","n":-1}`: Object(nil).Text("t", "<a>\n\"é").Int("n", -1),
	} {
		if end := string(got.End()); end != want {
			t.Errorf("got %s, want %s", end, want)
		}
	}
}
