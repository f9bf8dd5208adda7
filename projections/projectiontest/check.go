package projectiontest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
)

// Option changes how much CheckLaws tries.
type Option func(*settings)

type settings struct {
	seeds   []uint64
	events  int
	without map[Law]bool
}

// What is tried unless options say otherwise.
const (
	defaultHistories = 2
	defaultEvents    = 60
)

// Seed has one history tried, the one that this seed makes. It is how a failure is repeated.
func Seed(seed uint64) Option { return func(s *settings) { s.seeds = []uint64{seed} } }

// Histories sets how many histories are tried; 2 unless set.
func Histories(count int) Option {
	return func(s *settings) {
		s.seeds = make([]uint64, count)
		for i := range s.seeds {
			s.seeds[i] = uint64(rand.Uint32()) //nolint:gosec // a number for a person to type again
		}
	}
}

// Events sets how many events a history has; 60 unless set. A shorter history is the beginning of a longer one.
func Events(count int) Option { return func(s *settings) { s.events = count } }

// Without leaves laws out. Say why beside it.
func Without(laws ...Law) Option {
	return func(s *settings) {
		for _, name := range laws {
			s.without[name] = true
		}
	}
}

// CheckLaws fails the test where the projection that build returns breaks a law. Each process that the laws start gets
// a projection of its own from build, as each process of an installation does. The report names the law, the seed, and
// the rows that differ, for the shortest history of that seed which shows it.
func CheckLaws(t testing.TB, build func() projections.Projection, options ...Option) {
	t.Helper()
	s := settings{events: defaultEvents, without: map[Law]bool{}}
	Histories(defaultHistories)(&s)
	for _, option := range options {
		option(&s)
	}
	w := newWorld(t, build)
	w.requireKnownTypes()
	for _, seed := range s.seeds {
		if broken := w.check(seed, s.events, s.without); broken != nil {
			t.Errorf("projection %s: %v", w.projection.Name, w.shorten(broken))
			return
		}
	}
}

// requireKnownTypes refuses a projection that wants what no history holds, since the laws would show nothing of it.
func (w *world) requireKnownTypes() {
	w.t.Helper()
	made := map[events.Type]bool{}
	for _, entry := range history(1, defaultEvents) {
		made[entry.event.Type()] = true
	}
	for _, wanted := range w.projection.Wants {
		if !made[wanted] {
			w.t.Fatalf("projection %s wants %s, which projectiontest makes no events of: teach its shop to (history.go)", w.projection.Name, wanted)
		}
	}
}

// check tries a history on all laws, and returns the first that does not hold.
func (w *world) check(seed uint64, count int, without map[Law]bool) *breach {
	t, broken := w.begin(seed, count)
	if broken != nil {
		return broken
	}
	for _, l := range laws {
		if without[l.name] {
			continue
		}
		if broken := t.check(l); broken != nil {
			return broken
		}
	}
	return nil
}

// shorten returns the breach of the same law by the shortest beginning of its history that still shows it.
func (w *world) shorten(b *breach) *breach {
	shortest, longest := 1, b.events
	for shortest < longest {
		middle := (shortest + longest) / 2
		if shorter := w.again(b, middle); shorter != nil {
			b, longest = shorter, middle
		} else {
			shortest = middle + 1
		}
	}
	return b
}

func (w *world) again(b *breach, count int) *breach {
	t, broken := w.begin(b.seed, count)
	if broken != nil && broken.law == b.law {
		return broken
	}
	for _, l := range laws {
		if l.name == b.law && broken == nil {
			return t.check(l)
		}
	}
	return nil
}

// breach is a law that does not hold.
type breach struct {
	law     Law
	seed    uint64
	events  int
	history []entry
	finding string
}

// Error is the report.
func (b *breach) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "a law of projections is broken: %s\n", b.law)
	fmt.Fprintf(&s, "%s\n", b.finding)
	fmt.Fprintf(&s, "seed %d, %d events; try them again: projectiontest.Seed(%d), projectiontest.Events(%d)\n", b.seed, b.events, b.seed, b.events)
	const shown = 12
	first := max(0, len(b.history)-shown)
	if first > 0 {
		fmt.Fprintf(&s, "the last of the events:\n")
	}
	for i, entry := range b.history[first:] {
		fmt.Fprintf(&s, "  %d %s\n", first+i+1, entry)
	}
	return strings.TrimSuffix(s.String(), "\n")
}
