package projectiontest

import (
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/projections"
	"github.com/stockstream/stockstream/projections/rebuild"
)

// Law names a law, in the words in which a report does.
type Law string

// The laws. Each but the first two says that the rows, and the dead letters, are those of one straight application.
const (
	// Applies: the whole of a valid history is applied, and nothing of it is parked.
	Applies Law = "it applies what is valid"
	// OwnTables: it writes the tables that it names, which are those that its Schema makes; and no others, nor the
	// events that it is given.
	OwnTables Law = "it writes its own tables, and nothing else"
	// Batches: however the journal is cut into batches, down to single events.
	Batches Law = "batches do not matter"
	// Twice: each batch, and the whole journal, delivered again.
	Twice Law = "a second delivery changes nothing"
	// Killed: at each commit, processes die after the rows were written, in COMMIT, and after it.
	Killed Law = "death at any commit does no harm"
	// Rebuilt: applied from zero again, in the process that has applied it before, and by a rebuild.
	Rebuilt Law = "from zero it comes to the same"
	// Together: two processes whose lease fails to keep them apart.
	Together Law = "two runners at once do no harm"
	// Poison: an event that cannot be applied is parked with the later ones of its key, and the rest is as if these
	// had never been; likewise an event of a type that nobody knows yet.
	Poison Law = "a poisoned event parks its key, and no more"
	// Clock: at another time, and in a session of another time zone. Times in the rows move with those of the events,
	// for which they must be in columns of a type that Postgres knows as a time or a date.
	Clock Law = "the clock and the time zone do not matter"
)

type law struct {
	name  Law
	check func(*trial) string // what was found, or ""
}

var laws = []law{
	{Batches, (*trial).batches},
	{Twice, (*trial).twice},
	{Killed, (*trial).killed},
	{Rebuilt, (*trial).rebuilt},
	{Together, (*trial).together},
	{Poison, (*trial).poison},
	{Clock, (*trial).clock},
}

// trial is one history, and what a straight application of it came to.
type trial struct {
	*world
	seed     uint64
	history  []entry
	straight rows
	applied  projections.Projection // the one that did
	rng      *rand.Rand             // of the law that is checked
}

func (t *trial) breach(name Law, finding string) *breach {
	return &breach{law: name, seed: t.seed, events: len(t.history), history: t.history, finding: finding}
}

// check checks a law. What a law draws depends on the seed and on nothing that was checked before.
func (t *trial) check(l law) *breach {
	t.t.Helper()
	name := fnv.New64()
	_, _ = name.Write([]byte(l.name))                   // a hash takes everything
	t.rng = rand.New(rand.NewPCG(t.seed, name.Sum64())) //nolint:gosec // to be repeatable
	t.empty()
	if finding := l.check(t); finding != "" {
		return t.breach(l.name, finding)
	}
	return nil
}

// begin writes a history into the journal and applies it straight: all of it, in one batch, in one process.
func (w *world) begin(seed uint64, count int) (*trial, *breach) {
	w.t.Helper()
	t := &trial{world: w, seed: seed, history: history(seed, count), applied: w.build()}
	w.journal(t.history)
	w.empty()
	if finding := t.wrongTables(); finding != "" {
		return nil, t.breach(OwnTables, finding)
	}
	before, watched := w.otherRows(), t.applied
	changed := watchPayloads(&watched)
	if err := w.live(process{projection: watched}); err != nil {
		return nil, t.breach(Applies, err.Error())
	}
	t.straight = w.read(0)
	if letter := w.firstLetter(); letter != "" {
		return nil, t.breach(Applies, "parked "+letter)
	}
	for table, digest := range w.otherRows() {
		if digest != before[table] {
			return nil, t.breach(OwnTables, "it changed "+table)
		}
	}
	if *changed != "" {
		return nil, t.breach(OwnTables, *changed)
	}
	return t, nil
}

// wrongTables compares the tables that the projection names with those that its Schema made.
func (t *trial) wrongTables() string {
	made := without(t.relations(), t.others)
	if unnamed := without(made, t.projection.Tables); len(unnamed) > 0 {
		return fmt.Sprintf("its Schema makes %v, which its Tables do not name", unnamed)
	}
	if missing := without(t.projection.Tables, made); len(missing) > 0 {
		return fmt.Sprintf("its Tables name %v, which its Schema does not make", missing)
	}
	return ""
}

// same compares what is there with the straight rows; how says what was done to come there.
func (t *trial) same(how string) string {
	t.t.Helper()
	return t.sameAt(0, how)
}

func (t *trial) sameAt(daysBack int, how string) string {
	t.t.Helper()
	differs := difference(t.straight, t.read(daysBack))
	if differs == "" {
		return ""
	}
	finding := how + ", compared with one straight application:\n" + differs
	if letter := t.firstLetter(); letter != "" {
		finding += "\nthe first dead letter is " + letter
	}
	return finding
}

// lived runs a process and compares.
func (t *trial) lived(p process, how string) string {
	t.t.Helper()
	if err := t.live(p); err != nil {
		return how + ": " + err.Error()
	}
	return t.same(how)
}

func (t *trial) batches() string {
	sizes := []int{1, 2 + t.rng.IntN(len(t.history)/2+1)}
	for _, size := range sizes {
		t.empty()
		if finding := t.lived(process{projection: t.build(), batchMax: size}, fmt.Sprintf("in batches of %d", size)); finding != "" {
			return finding
		}
	}
	t.empty()
	cuts := t.cuts()
	return t.lived(process{projection: t.build(), deliver: func(batch []events.Envelope) (pieces [][]events.Envelope) {
		return split(batch, cuts)
	}}, fmt.Sprintf("in batches that begin at %v", cuts))
}

// cuts draws the seqs at which batches begin.
func (t *trial) cuts() []int64 {
	cuts := []int64{1}
	for seq := int64(2); seq <= t.head; seq++ {
		if t.rng.IntN(5) == 0 {
			cuts = append(cuts, seq)
		}
	}
	return cuts
}

func split(batch []events.Envelope, cuts []int64) (pieces [][]events.Envelope) {
	begin := 0
	for i := range batch {
		if i > 0 && slices.Contains(cuts, batch[i].Seq) {
			pieces = append(pieces, batch[begin:i])
			begin = i
		}
	}
	return append(pieces, batch[begin:])
}

func (t *trial) twice() string {
	cuts, reach := t.cuts(), 1+t.rng.IntN(5)
	return t.lived(process{projection: t.build(), deliver: func(batch []events.Envelope) (pieces [][]events.Envelope) {
		end := 0
		for _, piece := range split(batch, cuts) {
			begin := max(0, end-reach) // a batch may hold some of what came before it
			end += len(piece)
			pieces = append(pieces, batch[begin:end], batch[begin:end])
		}
		return append(pieces, batch)
	}}, fmt.Sprintf("in batches that begin at %v, each delivered twice and with %d events of the last, and then all again", cuts, reach))
}

// killed has a process die in each way at each commit. Now and then a projection lives on in the next process, as it
// does where only the connection dies.
func (t *trial) killed() string {
	p := t.build()
	var how []string
	for t.checkpoint() < t.head {
		size := 1 + t.rng.IntN(len(t.history)/4+1)
		how = append(how, fmt.Sprintf("%d+%d", t.checkpoint(), size))
		for d := afterWriting; d < numberOfDeaths && t.checkpoint() < t.head; d++ {
			if t.rng.IntN(2) == 0 {
				p = t.build()
			}
			if err := t.live(process{projection: p, batchMax: size, death: d}); err != nil {
				return err.Error()
			}
		}
	}
	return t.same(fmt.Sprintf("by processes that died at each of the commits %v", how))
}

func (t *trial) rebuilt() string {
	if finding := t.lived(process{projection: t.applied}, "from zero, by the process that had applied it before"); finding != "" {
		return finding
	}
	how := "by a rebuild beside the live tables, which were then exchanged"
	config := rebuild.Config{
		Postgres: t.session(nil), Pool: events.MainPool, AcceptDifferences: true, Log: slog.New(slog.DiscardHandler),
	}
	job, err := rebuild.Begin(t.t.Context(), config, t.build())
	if err == nil {
		_, err = job.Run(t.t.Context())
	}
	if err != nil {
		return how + ": " + err.Error()
	}
	finding := t.same(how)
	if err := rebuild.DropOld(t.t.Context(), config, t.projection); err != nil {
		t.t.Fatal(err)
	}
	return finding
}

// together runs two processes whose lease is always granted, and has both begin their first batch before either may
// write. The checkpoint is what keeps them from counting twice.
func (t *trial) together() string {
	noLease := t.schema + "_no_lease"
	t.exec(`CREATE SCHEMA ` + noLease)
	defer t.exec(`DROP SCHEMA ` + noLease + ` CASCADE`)
	t.exec(`CREATE FUNCTION ` + noLease + `.pg_try_advisory_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'`)
	session := map[string]string{"search_path": t.schema + "," + noLease + ",pg_catalog"}
	size := 1 + t.rng.IntN(len(t.history)/8+1)
	const plenty = 1_000_000
	var lives [2]*life
	first, second := meeting(t.build(), t.build())
	for i, p := range []projections.Projection{first, second} {
		lives[i] = t.start(process{projection: p, batchMax: size, session: session, faults: plenty})
	}
	how := fmt.Sprintf("by two processes at once, in batches of %d", size)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-lives[0].over:
	case <-lives[1].over:
	case <-timer.C:
		how += fmt.Sprintf(", neither of which comes to the end (%+v and %+v)", lives[0].lines[0].Status(), lives[1].lines[0].Status())
	}
	lives[0].stop()
	lives[1].stop()
	t.awaitNoSessions()
	return t.same(how)
}

// calendarDays is 28 years: after them the days of the week, of the month and of the leap years come again.
const calendarDays = 28*365 + 7

func (t *trial) clock() string {
	t.exec(`UPDATE events SET at = at + make_interval(days => $1)`, calendarDays)
	defer t.exec(`UPDATE events SET at = at - make_interval(days => $1)`, calendarDays)
	session := map[string]string{"timezone": "Asia/Kathmandu"} // a quarter of an hour beside the others
	how := "with all events 28 years later, and in the time zone of Kathmandu"
	if err := t.live(process{projection: t.build(), session: session}); err != nil {
		return how + ": " + err.Error()
	}
	return t.sameAt(calendarDays, how)
}
