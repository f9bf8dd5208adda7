package journal

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/events/stream"
	"github.com/stockstream/stockstream/internal/testenv"
	"github.com/stockstream/stockstream/internal/worker"
)

// smallNodes makes Redis trim to the entry, where it would trim to a hundred of them.
func (p *plant) smallNodes() {
	p.t.Helper()
	if err := p.redis.ConfigSet(p.ctx, "stream-node-max-entries", "1").Err(); err != nil {
		p.t.Fatal(err)
	}
}

// trimCase is a random state of a stream.
type trimCase struct {
	*plant
	random    *rand.Rand
	now       time.Time
	keep      time.Duration
	entries   []trimEntry
	end       int64
	journaled int64
}

type trimEntry struct {
	id     stream.ID
	seq    int64     // 0 for what no command wrote
	at     time.Time // when it was appended
	dated  bool      // whether the id, or a field, tells that
	needed bool
}

// fill appends entries that are up to twenty minutes old, and never within half a minute of a window's edge. In some cases
// an id is a day ahead, and so are all that come after it.
func (c *trimCase) fill() {
	c.t.Helper()
	count := c.random.IntN(25)
	age := 20 * time.Minute
	pipe := c.redis.Pipeline()
	leap := c.random.IntN(50)
	for i := range count {
		entry := trimEntry{at: c.now.Add(-age - 30*time.Second), dated: true}
		entry.id = stream.ID{Ms: uint64(entry.at.UnixMilli()), N: uint64(i)}
		fields := map[string]any{"hello": "world"}
		switch c.random.IntN(8) {
		case 0:
		case 1:
			fields = c.event(1_000_000) // a seq that was never assigned
		default:
			c.end++
			entry.seq = c.end
			fields = c.event(c.end)
		}
		if fields[events.FieldSeq] != nil {
			fields[events.FieldAt] = entry.at.UnixMilli()
		}
		if i >= leap {
			entry.id.Ms = uint64(c.now.Add(24 * time.Hour).UnixMilli())
			entry.dated = fields[events.FieldSeq] != nil
		}
		if i == leap && c.random.IntN(2) == 0 { // Redis's clock was ahead; or else somebody typed the id
			fields[events.FieldAt], entry.dated = entry.id.Ms, false
		}
		pipe.XAdd(c.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), ID: entry.id.String(), Values: fields})
		c.entries = append(c.entries, entry)
		age = max(0, age-time.Duration(c.random.IntN(3))*time.Minute)
	}
	pipe.HSet(c.ctx, events.MainPool.MetaKey(), "epoch", 1, "seq", c.end)
	if _, err := pipe.Exec(c.ctx); err != nil {
		c.t.Fatal(err)
	}
	c.journaled = c.random.Int64N(c.end + 1)
	if c.random.IntN(3) > 0 {
		c.journaled = c.end
	}
}

// group makes a consumer group that has read some, and acknowledged some of that.
func (c *trimCase) group(name string) {
	c.t.Helper()
	stream := events.MainPool.StreamKey()
	if err := c.redis.XGroupCreateMkStream(c.ctx, stream, name, "0").Err(); err != nil {
		c.t.Fatal(err)
	}
	read := 0
	if len(c.entries) > 0 {
		read = c.random.IntN(len(c.entries) + 1)
	}
	if read > 0 {
		args := &redis.XReadGroupArgs{Group: name, Consumer: "c", Streams: []string{stream, ">"}, Count: int64(read), Block: -1}
		if err := c.redis.XReadGroup(c.ctx, args).Err(); err != nil {
			c.t.Fatal(err)
		}
	}
	forgets := c.random.IntN(3) == 0
	for i := range c.entries {
		if i >= read || forgets && c.random.IntN(4) == 0 {
			c.entries[i].needed = true
			continue
		}
		if err := c.redis.XAck(c.ctx, stream, name, c.entries[i].id.String()).Err(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// expect returns how many entries have to go. An entry goes with all before it, or not at all.
func (c *trimCase) expect(hasJournalGroup bool) (gone int) {
	for i, entry := range c.entries {
		if entry.needed || !entry.at.Before(c.now.Add(-c.keep)) {
			break
		}
		if entry.dated {
			gone = i + 1
		}
	}
	for _, entry := range c.entries[:gone] {
		if entry.seq > c.journaled || !hasJournalGroup {
			return 0
		}
	}
	return gone
}

// TestTrimming holds, over random states of a stream, that trimming drops exactly what is past the window, read and
// acknowledged by every group, and in the journal; and that ids go on from where they were.
func TestTrimming(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	trimmed := 0
	for seed := range uint64(300) {
		if err := p.redis.FlushAll(p.ctx).Err(); err != nil {
			t.Fatal(err)
		}
		now, err := p.redis.Time(p.ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(seed, 1))
		c := &trimCase{plant: p, random: random, now: now, keep: []time.Duration{0, 5 * time.Minute, 15 * time.Minute, time.Hour}[random.IntN(4)]}
		c.fill()
		hasJournalGroup := random.IntN(20) > 0
		if hasJournalGroup {
			c.group(events.ConsumerGroup)
		}
		for i := range random.IntN(3) {
			c.group(fmt.Sprint("other", i))
		}
		trimmer := &stream.Trimmer{Redis: p.redis, Pool: events.MainPool, Keep: c.keep, Log: slog.New(slog.DiscardHandler)}
		if _, err := trimmer.Trim(p.ctx, c.journaled); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		gone := c.expect(hasJournalGroup)
		trimmed += gone
		c.check(seed, gone)
	}
	if trimmed < 300 {
		t.Errorf("%d entries were trimmed in all; the test tries too little", trimmed)
	}
}

func (c *trimCase) check(seed uint64, gone int) {
	c.t.Helper()
	left, err := c.redis.XRange(c.ctx, events.MainPool.StreamKey(), "-", "+").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	var got, want []string
	for _, entry := range left {
		got = append(got, entry.ID)
	}
	for _, entry := range c.entries[gone:] {
		want = append(want, entry.id.String())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		c.t.Errorf("seed %d: %d of %d entries are left, want %d (keep %s, journal at %d of %d)\ngot  %v\nwant %v", seed, len(got), len(c.entries), len(want), c.keep, c.journaled, c.end, got, want)
	}
	if len(c.entries) == 0 {
		return
	}
	last := c.entries[len(c.entries)-1].id
	if err := c.redis.XAdd(c.ctx, &redis.XAddArgs{Stream: events.MainPool.StreamKey(), ID: last.String(), Values: []string{"a", "b"}}).Err(); err == nil {
		c.t.Errorf("seed %d: the stream has forgotten its last id", seed)
	}
}

// TestTrimmedBehindTheJournal holds that a running journal trims what it has taken, that nothing goes while it is down
// or Redis is killed, and that no event is lost over it.
func TestTrimmedBehindTheJournal(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	entries := func(want int64) {
		t.Helper()
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			n, err := p.redis.XLen(p.ctx, events.MainPool.StreamKey()).Result()
			return err == nil && n == want, fmt.Sprintf("the stream has %d entries (%v), want %d", n, err, want)
		})
	}
	keep := StreamSubscriberConfig{BatchMax: 7}
	p.append(100)
	_, stop := p.journalWith(keep, slog.New(slog.DiscardHandler))
	p.awaitJournal(100)
	entries(0)
	stop()
	p.append(100) // a backlog that nobody reads
	if state, err := stream.Describe(p.ctx, p.redis, events.MainPool); err != nil || state.Entries != 100 || state.HeldBy != events.ConsumerGroup || state.Oldest.IsZero() {
		t.Errorf("the stream is %+v (%v), want 100 entries that %s holds", state, err, events.ConsumerGroup)
	}
	_, stop = p.journalWith(keep, slog.New(slog.DiscardHandler))
	p.awaitJournal(200)
	entries(0)
	if err := p.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.server.Start(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.append(50)
	p.awaitJournal(250)
	entries(0)
	stop()
	if state, err := stream.Describe(p.ctx, p.redis, events.MainPool); err != nil || state != (stream.State{}) {
		t.Errorf("the stream is %+v (%v), want it empty and held by nobody", state, err)
	}
}

// fallBack journals twenty events, and has Postgres forget the last ten.
func (p *plant) fallBack() {
	p.t.Helper()
	p.journaled(20)
	p.exec(`DELETE FROM events WHERE seq > 10`)
	p.exec(`UPDATE checkpoints SET seq = 10`)
}

// TestJournalThatFellBack holds that a journal which lost its last events, as after a failover of Postgres, finds them on
// the stream: within the window they are still there, and while they are missing nothing is trimmed.
func TestJournalThatFellBack(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	p.fallBack()
	p.append(5)
	trimmer := &stream.Trimmer{Redis: p.redis, Pool: events.MainPool, Log: slog.New(slog.DiscardHandler)}
	if trouble, err := trimmer.Trim(p.ctx, 10); err != nil || !strings.Contains(trouble, "the journal ends before them") {
		t.Errorf("trim: got %q (%v), want it to say that the journal lacks events", trouble, err)
	}
	meta, err := p.redis.HGetAll(p.ctx, events.MainPool.MetaKey()).Result()
	if err != nil {
		t.Fatal(err)
	}
	p.redis.Del(p.ctx, events.MainPool.MetaKey()) // as while Redis is being restored
	if trouble, err := trimmer.Trim(p.ctx, 10); err != nil || trouble != "" {
		t.Errorf("trim of a log that is being restored: got %q (%v), want it to wait without a word", trouble, err)
	}
	p.redis.HSet(p.ctx, events.MainPool.MetaKey(), meta)
	if n, err := p.redis.XLen(p.ctx, events.MainPool.StreamKey()).Result(); err != nil || n != 25 {
		t.Errorf("the stream has %d entries (%v), want all 25", n, err)
	}
	p.journalWith(StreamSubscriberConfig{}, slog.New(slog.DiscardHandler)) // with no window at all
	p.awaitJournal(25)
	p.awaitAcknowledged()
}

// TestTrimmingUnderFaults appends while sessions of the journal are cut off, by Postgres and by Redis, at any moment of
// a batch or of a trim. Every event must come to the journal, and the stream must be empty in the end.
func TestTrimmingUnderFaults(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	p.config.RuntimeParams["application_name"] = "journal of " + p.config.RuntimeParams["search_path"]
	p.journalWith(StreamSubscriberConfig{BatchMax: 20}, slog.New(slog.DiscardHandler))
	const cut = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`
	for range 6 {
		p.append(30 + rand.IntN(100))
		seq := p.seq - rand.Int64N(30)
		testenv.Eventually(t, 30*time.Second, func() (bool, string) { // the fault meets a journal that works
			at, err := worker.ReadCheckpoint(p.ctx, p.db, CheckpointName, "main")
			return at >= seq, fmt.Sprintf("the journal is at %d of %d (%v)", at, p.seq, err)
		})
		if rand.IntN(2) == 0 {
			p.exec(cut, p.config.RuntimeParams["application_name"])
			continue
		}
		if err := p.redis.ClientKillByFilter(p.ctx, "TYPE", "normal").Err(); err != nil {
			t.Fatal(err)
		}
	}
	p.awaitJournal(p.seq)
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		n, err := p.redis.XLen(p.ctx, events.MainPool.StreamKey()).Result()
		return err == nil && n == 0, fmt.Sprintf("the stream has %d entries (%v)", n, err)
	})
}

// lines collects a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// TestOtherGroupsAreRespected holds that entries wait for somebody else's consumer group, that the log says so once,
// and that they go when the group is gone.
func TestOtherGroupsAreRespected(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.smallNodes()
	if err := p.redis.XGroupCreateMkStream(p.ctx, events.MainPool.StreamKey(), "somebody", "0").Err(); err != nil {
		t.Fatal(err)
	}
	p.append(20)
	var log lines
	p.journalWith(StreamSubscriberConfig{}, slog.New(slog.NewTextHandler(&log, nil)))
	p.awaitJournal(20)
	testenv.Eventually(t, 5*time.Second, func() (bool, string) { return log.count("consumer group somebody") > 0, "the log says nothing" })
	p.append(20)
	p.awaitJournal(40)
	if state, err := stream.Describe(p.ctx, p.redis, events.MainPool); err != nil || state.Entries != 40 || state.HeldBy != "somebody" {
		t.Errorf("the stream is %+v (%v), want 40 entries that somebody holds", state, err)
	}
	if err := p.redis.XGroupDestroy(p.ctx, events.MainPool.StreamKey(), "somebody").Err(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 5*time.Second, func() (bool, string) {
		state, err := stream.Describe(p.ctx, p.redis, events.MainPool)
		return err == nil && state.Entries == 0, fmt.Sprintf("%+v (%v)", state, err)
	})
	if got := log.count("consumer group somebody"); got != 1 {
		t.Errorf("the log says so %d times, want once", got)
	}
}
