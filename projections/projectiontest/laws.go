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

// Law names a law, in the words of a failure message.
type Law string

// The laws. Applies and OwnTables are checked while the baseline is made. Each other law
// says that the rows, and the dead letters, equal the baseline.
const (
	// Applies requires that a projection applies every event of a valid history and parks
	// none.
	Applies Law = "every event of a valid history is applied"
	// OwnTables requires that Tables names exactly the tables that Schema creates, and
	// that the projection changes no other table and no event that it receives.
	OwnTables Law = "it writes its own tables and nothing else"
	// Batches cuts the journal into batches of different sizes, down to single events.
	Batches Law = "the size of batches does not matter"
	// Redelivered delivers each batch a second time, and then the whole journal again.
	Redelivered Law = "a second delivery changes nothing"
	// Killed kills a process at each commit: after the rows were written, in COMMIT, and
	// after COMMIT.
	Killed Law = "a crash at any commit does no harm"
	// Rebuilt applies the journal from zero again, with the projection that has applied
	// it before and by a rebuild.
	Rebuilt Law = "applying the journal from zero gives the same rows"
	// TwoWorkers runs two processes whose lease fails to exclude one of them.
	TwoWorkers Law = "two workers at the same time do no harm"
	// Poison makes an event fail, and then gives it an unknown type. The event must be
	// parked with the later ones of its key, and the rows must be those of a history
	// without the parked events.
	Poison Law = "an event that fails parks its key and nothing else"
	// Clock applies the history 28 years later, in a session of another time zone. Times
	// in the rows must move with those of the events. They must therefore be in columns
	// of a type that Postgres knows as a time or a date.
	Clock Law = "the clock and the time zone do not matter"
)

// lawCheck is a law and the function that checks it.
type lawCheck struct {
	law  Law
	find func(*historyCheck) string // describes a violation; "" if there is none
}

var lawChecks = []lawCheck{
	{Batches, (*historyCheck).batches},
	{Redelivered, (*historyCheck).redelivered},
	{Killed, (*historyCheck).killed},
	{Rebuilt, (*historyCheck).rebuilt},
	{TwoWorkers, (*historyCheck).twoWorkers},
	{Poison, (*historyCheck).poison},
	{Clock, (*historyCheck).clock},
}

// historyCheck checks the laws with one history.
type historyCheck struct {
	*fixture
	seed     uint64
	history  []entry
	baseline rows                   // written by one process in one batch
	first    projections.Projection // the projection that wrote the baseline
	rng      *rand.Rand             // of the law that is being checked
}

func (c *historyCheck) violation(law Law, finding string) *violation {
	return &violation{
		law:     law,
		seed:    c.seed,
		history: c.history,
		finding: finding,
	}
}

// check checks one law. Its random numbers depend on the seed and the law only, not on
// the laws checked before.
func (c *historyCheck) check(l lawCheck) *violation {
	c.t.Helper()
	hash := fnv.New64()
	_, _ = hash.Write([]byte(l.law))                    // a hash never fails
	c.rng = rand.New(rand.NewPCG(c.seed, hash.Sum64())) //nolint:gosec // must be repeatable
	c.reset()
	if finding := l.find(c); finding != "" {
		return c.violation(l.law, finding)
	}
	return nil
}

// newHistoryCheck writes a history into the journal and makes its baseline. It checks
// Applies and OwnTables, and returns the violation of one of them, if any.
func (f *fixture) newHistoryCheck(seed uint64, eventCount int) (*historyCheck, *violation) {
	f.t.Helper()
	c := &historyCheck{
		fixture: f,
		seed:    seed,
		history: history(seed, eventCount),
		first:   f.build(),
	}
	f.journal(c.history)
	f.reset()
	if finding := c.wrongTables(); finding != "" {
		return nil, c.violation(OwnTables, finding)
	}
	digestsBefore := f.digestsOfOtherTables()
	watched := c.first
	changedPayload := watchPayloads(&watched)
	if err := f.run(process{projection: watched}); err != nil {
		return nil, c.violation(Applies, err.Error())
	}
	c.baseline = f.read(0)
	if letter := f.firstLetter(); letter != "" {
		return nil, c.violation(Applies, "parked "+letter)
	}
	for table, digest := range f.digestsOfOtherTables() {
		if digest != digestsBefore[table] {
			return nil, c.violation(OwnTables, "it changed "+table)
		}
	}
	if *changedPayload != "" {
		return nil, c.violation(OwnTables, *changedPayload)
	}
	return c, nil
}

// wrongTables compares the projection's Tables with those that its Schema created.
func (c *historyCheck) wrongTables() string {
	created := subtract(c.tables(), c.otherTables)
	if unnamed := subtract(created, c.projection.Tables); len(unnamed) > 0 {
		return fmt.Sprintf("its Schema creates %v, which its Tables do not name", unnamed)
	}
	if missing := subtract(c.projection.Tables, created); len(missing) > 0 {
		return fmt.Sprintf("its Tables name %v, which its Schema does not create", missing)
	}
	return ""
}

// compare compares the rows with the baseline. It describes the difference and how the
// rows were written; "" means that there is no difference.
func (c *historyCheck) compare(how string) string {
	c.t.Helper()
	return c.compareAt(0, how)
}

// compareAt is compare for rows whose times are some days later than those of the
// baseline.
func (c *historyCheck) compareAt(daysLater int, how string) string {
	c.t.Helper()
	differs := difference(c.baseline, c.read(daysLater))
	if differs == "" {
		return ""
	}
	finding := how + ", compared with the whole history in one batch:\n" + differs
	if letter := c.firstLetter(); letter != "" {
		finding += "\nthe first dead letter is " + letter
	}
	return finding
}

// runAndCompare runs a process to its end and compares its rows with the baseline.
func (c *historyCheck) runAndCompare(p process, how string) string {
	c.t.Helper()
	if err := c.run(p); err != nil {
		return how + ": " + err.Error()
	}
	return c.compare(how)
}

func (c *historyCheck) batches() string {
	for _, size := range []int{1, 2 + c.rng.IntN(len(c.history)/2+1)} {
		c.reset()
		p := process{projection: c.build(), batchMax: size}
		if finding := c.runAndCompare(p, fmt.Sprintf("in batches of %d", size)); finding != "" {
			return finding
		}
	}
	c.reset()
	starts := c.batchStarts()
	p := process{
		projection: c.build(),
		deliver: func(batch []events.Envelope) [][]events.Envelope {
			return split(batch, starts)
		},
	}
	return c.runAndCompare(p, fmt.Sprintf("in batches that begin at %v", starts))
}

// batchStarts draws the seqs at which batches begin.
func (c *historyCheck) batchStarts() []int64 {
	starts := []int64{1}
	for seq := int64(2); seq <= c.head; seq++ {
		if c.rng.IntN(5) == 0 {
			starts = append(starts, seq)
		}
	}
	return starts
}

// split cuts a batch before each event whose seq is in starts.
func split(batch []events.Envelope, starts []int64) (pieces [][]events.Envelope) {
	begin := 0
	for i := range batch {
		if i > 0 && slices.Contains(starts, batch[i].Seq) {
			pieces = append(pieces, batch[begin:i])
			begin = i
		}
	}
	return append(pieces, batch[begin:])
}

func (c *historyCheck) redelivered() string {
	starts := c.batchStarts()
	overlap := 1 + c.rng.IntN(5)
	p := process{
		projection: c.build(),
		deliver: func(batch []events.Envelope) (pieces [][]events.Envelope) {
			end := 0
			for _, piece := range split(batch, starts) {
				begin := max(0, end-overlap)
				end += len(piece)
				pieces = append(pieces, batch[begin:end], batch[begin:end])
			}
			return append(pieces, batch)
		},
	}
	const format = "in batches that begin at %v, each delivered twice and with the last %d events before it, " +
		"and then all again"
	return c.runAndCompare(p, fmt.Sprintf(format, starts, overlap))
}

// killed kills a process at each crash point of each commit. Half of the time the next
// process uses the same projection again, as a process does that only lost its
// connection.
func (c *historyCheck) killed() string {
	p := c.build()
	var commits []string // "checkpoint+batch size" of each commit
	for c.checkpoint() < c.head {
		size := 1 + c.rng.IntN(len(c.history)/4+1)
		commits = append(commits, fmt.Sprintf("%d+%d", c.checkpoint(), size))
		for _, crash := range crashPoints {
			if c.checkpoint() >= c.head {
				break
			}
			if c.rng.IntN(2) == 0 {
				p = c.build()
			}
			if err := c.run(process{projection: p, batchMax: size, crash: crash}); err != nil {
				return err.Error()
			}
		}
	}
	return c.compare(fmt.Sprintf("by processes that were killed at each of the commits %v", commits))
}

func (c *historyCheck) rebuilt() string {
	how := "from zero, by the projection that had applied it before"
	if finding := c.runAndCompare(process{projection: c.first}, how); finding != "" {
		return finding
	}
	how = "by a rebuild beside the live tables, after the swap"
	config := rebuild.Config{
		Postgres:          c.session(nil),
		Pool:              events.MainPool,
		AcceptDifferences: true,
		Log:               slog.New(slog.DiscardHandler),
	}
	job, err := rebuild.Begin(c.t.Context(), config, c.build())
	if err == nil {
		_, err = job.Run(c.t.Context())
	}
	if err != nil {
		return how + ": " + err.Error()
	}
	finding := c.compare(how)
	if err := rebuild.DropOld(c.t.Context(), config, c.projection); err != nil {
		c.t.Fatal(err)
	}
	return finding
}

// twoWorkers runs two processes whose lease is always granted. Both begin their first
// batch before either may write, so that only the checkpoint keeps them from counting an
// event twice.
func (c *historyCheck) twoWorkers() string {
	noLease := c.schema + "_no_lease"
	c.exec(`CREATE SCHEMA ` + noLease)
	defer c.exec(`DROP SCHEMA ` + noLease + ` CASCADE`)
	c.exec(`CREATE FUNCTION ` + noLease +
		`.pg_try_advisory_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'`)
	size := 1 + c.rng.IntN(len(c.history)/8+1)
	start := func(p projections.Projection) *runningProcess {
		return c.start(process{
			projection:  p,
			batchMax:    size,
			session:     map[string]string{"search_path": c.schema + "," + noLease + ",pg_catalog"},
			failuresMax: 1_000_000, // the checkpoint refuses many batches
		})
	}
	firstProjection, secondProjection := beginTogether(c.build(), c.build())
	first := start(firstProjection)
	second := start(secondProjection)
	how := fmt.Sprintf("by two processes at once, in batches of %d", size)
	timer := time.NewTimer(processTimeout)
	defer timer.Stop()
	select {
	case <-first.done:
	case <-second.done:
	case <-timer.C:
		how += fmt.Sprintf(", neither of which reached the end of the journal (%+v and %+v)",
			first.worker.Status(), second.worker.Status())
	}
	first.stop()
	second.stop()
	c.awaitNoSessions()
	return c.compare(how)
}

// calendarDays is 28 years: after these, weekdays, dates and leap years repeat.
const calendarDays = 28*365 + 7

func (c *historyCheck) clock() string {
	c.exec(`UPDATE events SET at = at + make_interval(days => $1)`, calendarDays)
	defer c.exec(`UPDATE events SET at = at - make_interval(days => $1)`, calendarDays)
	p := process{
		projection: c.build(),
		session:    map[string]string{"timezone": "Asia/Kathmandu"}, // UTC+5:45
	}
	how := "with all events 28 years later, and in the time zone of Kathmandu"
	if err := c.run(p); err != nil {
		return how + ": " + err.Error()
	}
	return c.compareAt(calendarDays, how)
}
