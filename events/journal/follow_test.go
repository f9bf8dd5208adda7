package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// followCall is a call of Follow in a goroutine of its own.
type followCall struct {
	mu      sync.Mutex
	seqs    []int64  // of the events that Follow handed over
	outages []string // the errors that Follow reported
	done    chan error
	stop    context.CancelFunc
}

// follow starts to follow the journal. handle may be nil; otherwise its error ends the
// following.
func (f *fixture) follow(q HistoryQuery, handle func([]Recorded) error) *followCall {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.ctx)
	call := &followCall{done: make(chan error, 1), stop: cancel}
	q.Pool = "main"
	if q.Limit == 0 {
		q.Limit = 3
	}
	onOutage := func(err error) {
		call.mu.Lock()
		defer call.mu.Unlock()
		call.outages = append(call.outages, err.Error())
	}
	onPage := func(page []Recorded) error {
		call.mu.Lock()
		defer call.mu.Unlock()
		for _, e := range page {
			call.seqs = append(call.seqs, e.Seq)
		}
		if handle != nil {
			return handle(page)
		}
		return nil
	}
	config := f.config
	go func() { call.done <- Follow(ctx, config, q, onOutage, onPage) }()
	f.t.Cleanup(cancel)
	return call
}

// state returns copies of the seqs and of the outages so far.
func (c *followCall) state() (seqs []int64, outages []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seqs), slices.Clone(c.outages)
}

// await waits until Follow has handed over exactly these events.
func (c *followCall) await(t *testing.T, want ...int64) {
	t.Helper()
	testenv.Eventually(t, 20*time.Second, func() (bool, string) {
		seqs, outages := c.state()
		detail := fmt.Sprintf("followed events: got %v, want %v; outages %q", seqs, want, outages)
		return slices.Equal(seqs, want), detail
	})
}

// boundsTracer is a pgx tracer that closes read once a connection has read the journal's
// bounds, from which Follow takes the seq after which FromNow begins.
type boundsTracer struct {
	read  chan struct{}
	once  sync.Once
	query string // the connection's present one
}

// TraceQueryStart implements pgx.QueryTracer.
func (b *boundsTracer) TraceQueryStart(
	ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData,
) context.Context {
	b.query = data.SQL
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (b *boundsTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	if strings.Contains(b.query, "ORDER BY seq LIMIT") {
		b.once.Do(func() { close(b.read) })
	}
}

// followFromNow starts to follow the journal, and returns once the events appended after
// that are followed.
func (f *fixture) followFromNow() *followCall {
	f.t.Helper()
	tracer := &boundsTracer{read: make(chan struct{})}
	config := f.config
	f.config = config.Copy()
	f.config.Tracer = tracer
	call := f.follow(HistoryQuery{After: FromNow}, nil)
	f.config = config
	select {
	case <-tracer.read:
	case <-time.After(10 * time.Second):
		f.t.Fatal("Follow has not read the journal's bounds within 10 seconds")
	}
	return call
}

// TestFollowSurvivesRestartsOfPostgres checks that a follower is given every event once
// and in order, although Postgres is killed while events are appended.
func TestFollowSurvivesRestartsOfPostgres(t *testing.T) {
	t.Parallel()
	postgres := testenv.PostgresServer(t)
	testenv.Migrate(t, postgres.URL())
	f := newFixtureOn(t, postgres.URL())
	f.runJournal(2)
	f.appendEvents(5)
	f.awaitJournal(5)
	fromNow := f.followFromNow()
	fromStart := f.follow(HistoryQuery{}, nil)
	fromStart.await(t, 1, 2, 3, 4, 5)
	f.appendEvents(3)
	fromNow.await(t, 6, 7, 8)
	for range 2 {
		if err := postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		f.appendEvents(4)
		testenv.Eventually(t, 10*time.Second, func() (bool, string) {
			_, outages := fromNow.state()
			return len(outages) > 0, "the follower has reported no outage"
		})
		if err := postgres.Start(f.ctx); err != nil {
			t.Fatal(err)
		}
	}
	fromNow.await(t, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	fromStart.await(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	for name, call := range map[string]*followCall{"from now": fromNow, "from the start": fromStart} {
		call.stop()
		if err := <-call.done; err != nil {
			t.Errorf("stop the follower %s: got %v, want no error", name, err)
		}
	}
}

// TestFollowSkipsEventsOfOtherTypes checks that a follower of one type is given every
// event of that type, although pages without any are read in between.
func TestFollowSkipsEventsOfOtherTypes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(400)
	follower := f.follow(HistoryQuery{After: 100, Type: events.TypeStockAdjusted}, nil)
	follower.await(t, 194, 291, 388)
	f.exec(`
		INSERT INTO events
		SELECT pool, seq + 97, gen_random_uuid(), type, sku, hold_id, payload, metadata, at FROM events WHERE seq > 303`)
	// without a notification, so the follower's poll has to find the event
	f.setCheckpoint(CheckpointName, 497)
	follower.await(t, 194, 291, 388, 485)
}

// TestFollowEndsWithItsError checks that Follow ends by itself if the page handler fails,
// if the position is beyond the journal's end,
// if the journal has become shorter, if the next events are detached, and if the first
// connection fails, each with the error that says so.
func TestFollowEndsWithItsError(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.insertHistory(20)
	broken := errors.New("broken pipe")
	if err := <-f.follow(HistoryQuery{After: 21}, nil).done; !errors.Is(err, ErrBeyondEnd) {
		t.Errorf("position beyond the end: got %v, want ErrBeyondEnd", err)
	}
	failing := f.follow(HistoryQuery{}, func([]Recorded) error { return broken })
	if err := <-failing.done; !errors.Is(err, broken) {
		t.Errorf("page handler fails: got %v, want its error", err)
	}
	atEnd := f.follow(HistoryQuery{After: 18}, nil)
	atEnd.await(t, 19, 20)
	f.setCheckpoint(CheckpointName, 19)
	if err := <-atEnd.done; !errors.Is(err, ErrRewritten) {
		t.Errorf("journal that was set back: got %v, want ErrRewritten", err)
	}
	f.exec(`DELETE FROM events WHERE seq <= 10`)
	if err := <-f.follow(HistoryQuery{After: 5}, nil).done; !errors.Is(err, ErrDetached) {
		t.Errorf("next events are detached: got %v, want ErrDetached", err)
	}
	f.config = f.config.Copy()
	f.config.Host = "127.0.0.1"
	f.config.Port = 1
	if err := <-f.follow(HistoryQuery{}, nil).done; err == nil {
		t.Error("no Postgres at the address: got no error, want one")
	}
}
