package stream

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ID is the id of a stream entry: when Redis appended it, and a number that tells entries of one millisecond
// apart. Ids of a stream only ever grow, even where the clock goes back.
type ID struct{ Ms, N uint64 }

func ParseID(s string) (ID, error) {
	ms, n, found := strings.Cut(s, "-")
	id := ID{}
	var msErr, nErr error
	id.Ms, msErr = strconv.ParseUint(ms, 10, 64)
	id.N, nErr = strconv.ParseUint(n, 10, 64)
	if !found || msErr != nil || nErr != nil {
		return ID{}, fmt.Errorf("stream id %q: want milliseconds, a dash and a number", s)
	}
	return id, nil
}

// String returns the form in which Redis writes ids.
func (id ID) String() string {
	return strconv.FormatUint(id.Ms, 10) + "-" + strconv.FormatUint(id.N, 10)
}

func (id ID) Less(other ID) bool {
	return id.Ms < other.Ms || id.Ms == other.Ms && id.N < other.N
}

// Next is the lowest id above this one.
func (id ID) Next() ID {
	if id.N == math.MaxUint64 {
		return ID{Ms: id.Ms + 1}
	}
	return ID{Ms: id.Ms, N: id.N + 1}
}

// Previous is the highest id below this one, which must not be the lowest of all.
func (id ID) Previous() ID {
	if id.N == 0 {
		return ID{Ms: id.Ms - 1, N: math.MaxUint64}
	}
	return ID{Ms: id.Ms, N: id.N - 1}
}

// isAfter reports whether id comes after other.
func isAfter(id, other string) (bool, error) {
	a, err := ParseID(id)
	if err != nil {
		return false, err
	}
	b, err := ParseID(other)
	if err != nil {
		return false, err
	}
	return b.Less(a), nil
}
