package stream

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ID is the id of a stream entry: the time at which Redis appended it, and a number that
// tells entries of the same millisecond apart. The ids of a stream always grow, even if
// Redis's clock goes back.
type ID struct {
	Ms uint64
	N  uint64
}

// ParseID reads an id in Redis's form, such as 1764000000000-0.
func ParseID(s string) (ID, error) {
	ms, n, found := strings.Cut(s, "-")
	var id ID
	var msErr, nErr error
	id.Ms, msErr = strconv.ParseUint(ms, 10, 64)
	id.N, nErr = strconv.ParseUint(n, 10, 64)
	if !found || msErr != nil || nErr != nil {
		return ID{}, fmt.Errorf("stream id %q: want milliseconds, a dash and a number", s)
	}
	return id, nil
}

// String returns the id in Redis's form.
func (id ID) String() string {
	return strconv.FormatUint(id.Ms, 10) + "-" + strconv.FormatUint(id.N, 10)
}

// Less reports whether id comes before other.
func (id ID) Less(other ID) bool {
	return id.Ms < other.Ms || id.Ms == other.Ms && id.N < other.N
}

// Next returns the lowest id above this one.
func (id ID) Next() ID {
	if id.N == math.MaxUint64 {
		return ID{Ms: id.Ms + 1}
	}
	return ID{Ms: id.Ms, N: id.N + 1}
}

// Previous returns the highest id below this one. The id must not be 0-0.
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
