package projectiontest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// Option changes the histories and laws that CheckLaws checks.
type Option func(*settings)

type settings struct {
	seeds      []uint64 // one history each
	eventCount int      // events per history
	skipped    map[Law]bool
}

const (
	defaultHistories  = 2
	defaultEventCount = 60
)

// Seed checks only the history of this seed. Use it to repeat a failure.
func Seed(seed uint64) Option { return func(s *settings) { s.seeds = []uint64{seed} } }

// Histories sets the number of histories to check; the default is 2.
func Histories(count int) Option {
	return func(s *settings) {
		s.seeds = make([]uint64, count)
		for i := range s.seeds {
			s.seeds[i] = uint64(rand.Uint32()) //nolint:gosec // not a secret, and short enough to type again
		}
	}
}

// Events sets the number of events per history; the default is 60. For one seed, a
// shorter history is the beginning of a longer one.
func Events(count int) Option { return func(s *settings) { s.eventCount = count } }

// Without skips laws. Give the reason in a comment beside the call.
func Without(laws ...Law) Option {
	return func(s *settings) {
		for _, law := range laws {
			s.skipped[law] = true
		}
	}
}

// CheckLaws fails the test if the projection that build returns breaks a law. It calls
// build once for each process that it starts, as each process of an installation has its
// own projection. The failure message names the law, the seed and the rows that differ,
// for the shortest history of that seed that breaks the law.
func CheckLaws(t testing.TB, build func() projections.Projection, options ...Option) {
	t.Helper()
	s := settings{
		eventCount: defaultEventCount,
		skipped:    map[Law]bool{},
	}
	Histories(defaultHistories)(&s)
	for _, option := range options {
		option(&s)
	}
	f := newFixture(t, build)
	f.requireKnownTypes()
	for _, seed := range s.seeds {
		if v := f.checkHistory(seed, s.eventCount, s.skipped); v != nil {
			t.Errorf("projection %s: %s", f.projection.Name, f.shorten(v).report())
			return
		}
	}
}

// requireKnownTypes fails the test if the projection wants a type that no history
// contains: the laws would then say little about it.
func (f *fixture) requireKnownTypes() {
	f.t.Helper()
	generated := map[events.Type]bool{}
	for _, entry := range history(1, defaultEventCount) {
		generated[entry.event.Type()] = true
	}
	for _, wanted := range f.projection.Wants {
		if !generated[wanted] {
			f.t.Fatalf("projection %s wants %s, but projectiontest generates no such events: extend history.go",
				f.projection.Name, wanted)
		}
	}
}

// checkHistory checks one history against all laws but the skipped ones, and returns the
// first violation.
func (f *fixture) checkHistory(seed uint64, eventCount int, skipped map[Law]bool) *violation {
	c, v := f.newHistoryCheck(seed, eventCount)
	if v != nil {
		return v
	}
	for _, l := range lawChecks {
		if skipped[l.law] {
			continue
		}
		if v := c.check(l); v != nil {
			return v
		}
	}
	return nil
}

// shorten returns the violation of the same law by the shortest beginning of its history
// that still breaks it.
func (f *fixture) shorten(v *violation) *violation {
	shortest := 1
	longest := len(v.history)
	for shortest < longest {
		middle := (shortest + longest) / 2
		if shorter := f.checkAgain(v, middle); shorter != nil {
			v = shorter
			longest = middle
		} else {
			shortest = middle + 1
		}
	}
	return v
}

// checkAgain checks the law of a violation with the first events of its history.
func (f *fixture) checkAgain(v *violation, eventCount int) *violation {
	c, early := f.newHistoryCheck(v.seed, eventCount)
	if early != nil {
		if early.law == v.law {
			return early
		}
		return nil
	}
	for _, l := range lawChecks {
		if l.law == v.law {
			return c.check(l)
		}
	}
	return nil
}

// violation describes how a projection broke a law with one history.
type violation struct {
	law     Law
	seed    uint64
	history []entry
	finding string
}

// report returns the failure message of a test.
func (v *violation) report() string {
	count := len(v.history)
	var s strings.Builder
	fmt.Fprintf(&s, "a law of projections is broken: %s\n", v.law)
	fmt.Fprintf(&s, "%s\n", v.finding)
	fmt.Fprintf(&s, "seed %d, %d events; to repeat: projectiontest.Seed(%d), projectiontest.Events(%d)\n",
		v.seed, count, v.seed, count)
	const shown = 12
	first := max(0, count-shown)
	if first > 0 {
		fmt.Fprintf(&s, "the last %d events:\n", shown)
	}
	for i, entry := range v.history[first:] {
		fmt.Fprintf(&s, "  %d %s\n", first+i+1, entry)
	}
	return strings.TrimSuffix(s.String(), "\n")
}
