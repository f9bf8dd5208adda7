package events

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// streamID is the id of a stream entry: when Redis appended it, and a number that tells entries of one millisecond
// apart. Ids of a stream only ever grow, even where the clock goes back.
type streamID struct{ ms, n uint64 }

func parseStreamID(s string) (streamID, error) {
	ms, n, found := strings.Cut(s, "-")
	id := streamID{}
	var msErr, nErr error
	id.ms, msErr = strconv.ParseUint(ms, 10, 64)
	id.n, nErr = strconv.ParseUint(n, 10, 64)
	if !found || msErr != nil || nErr != nil {
		return streamID{}, fmt.Errorf("stream id %q: want milliseconds, a dash and a number", s)
	}
	return id, nil
}

// String returns the form in which Redis writes ids.
func (id streamID) String() string {
	return strconv.FormatUint(id.ms, 10) + "-" + strconv.FormatUint(id.n, 10)
}

func (id streamID) less(other streamID) bool {
	return id.ms < other.ms || id.ms == other.ms && id.n < other.n
}

// next is the lowest id above this one.
func (id streamID) next() streamID {
	if id.n == math.MaxUint64 {
		return streamID{ms: id.ms + 1}
	}
	return streamID{ms: id.ms, n: id.n + 1}
}

// previous is the highest id below this one, which must not be the lowest of all.
func (id streamID) previous() streamID {
	if id.n == 0 {
		return streamID{ms: id.ms - 1, n: math.MaxUint64}
	}
	return streamID{ms: id.ms, n: id.n - 1}
}
