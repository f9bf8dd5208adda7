package events

import (
	"fmt"
	"strconv"
	"strings"
)

// Position is a position in a pool's log, directly after the event with this seq. Its
// text form is "main:42".
type Position struct {
	Pool string
	Seq  int64
}

// String returns the form that the HTTP API shows: pool, colon, seq.
func (p Position) String() string { return p.Pool + ":" + strconv.FormatInt(p.Seq, 10) }

// ParsePosition reads the form that String returns.
func ParsePosition(s string) (Position, error) {
	pool, seq, found := strings.Cut(s, ":")
	n, err := strconv.ParseInt(seq, 10, 64)
	p := Position{Pool: pool, Seq: n}
	if !found || pool == "" || err != nil || n < 0 || p.String() != s {
		return Position{}, fmt.Errorf("position %q: want pool:seq, as in main:42", s)
	}
	return p, nil
}
