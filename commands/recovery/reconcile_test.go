package recovery

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stockstream/stockstream/events"
	"github.com/stockstream/stockstream/internal/testenv"
)

// journalSays sets how far the journal is said to have come.
func (s *shop) journalSays(seq int64) {
	s.t.Helper()
	conn := testenv.Connect(s.t, s.postgres)
	const query = `INSERT INTO checkpoints (projection, pool, seq) VALUES ('journal', 'main', $1)
		ON CONFLICT (projection, pool) DO UPDATE SET seq = $1`
	if _, err := conn.Exec(s.ctx, query, seq); err != nil {
		s.t.Fatal(err)
	}
}

// TestClosedPool holds that nothing is decided before the pool is open, and that readiness says so.
func TestClosedPool(t *testing.T) {
	t.Parallel()
	s := closedShop(t)
	before := s.dump()
	for name, err := range map[string]error{
		"reserve": ignore(s.Reserve(s.ctx, s.request("shirt", 1))), "confirm": ignore(s.Confirm(s.ctx, Confirm{HoldID: "h", PaymentRef: "p"})),
		"cancel": ignore(s.Cancel(s.ctx, Cancel{HoldID: "h"})), "available": ignore(s.Available(s.ctx, "shirt")), "ready": s.Ready(s.ctx),
	} {
		if !errors.Is(err, ErrNotReady) {
			t.Errorf("%s: got %v, want ErrNotReady", name, err)
		}
	}
	s.wantUnchanged(t, before)
	if err := s.Open(s.ctx, s.postgres); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(s.ctx); err != nil {
		t.Errorf("ready, once open: %v", err)
	}
}

// TestOpenedAtOnce holds that several processes set a new pool up once.
func TestOpenedAtOnce(t *testing.T) {
	t.Parallel()
	s := closedShop(t)
	var all sync.WaitGroup
	for range 5 {
		other := s.anotherService()
		all.Go(func() {
			if err := other.Open(s.ctx, s.postgres); err != nil {
				t.Errorf("open: %v", err)
			}
		})
	}
	all.Wait()
	if meta := s.operator.HGetAll(s.ctx, "inventory.meta").Val(); len(meta) != 2 || meta["epoch"] != "1" || meta["seq"] != "0" {
		t.Errorf("got %v, want epoch 1 and seq 0", meta)
	}
}

// TestOpen compares Redis and the journal in every relation that they can have without a journal that runs.
func TestOpen(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		arrange func(s *shop)
		want    error
	}{
		{"both new", func(*shop) {}, nil},
		{"level", func(s *shop) { s.stock("shirt", 1); s.journalSays(1) }, nil},
		{"level, and journaled", func(s *shop) { s.stock("shirt", 1); s.journaled() }, nil},
		{"Redis ahead: the journal catches up", func(s *shop) { s.stock("shirt", 1); s.journaled(); s.stock("shirt", 1) }, nil},
		{"Redis emptied before the first event was journaled", func(s *shop) { s.stock("shirt", 1); s.typed("FLUSHALL") }, nil},
		{"Redis emptied", func(s *shop) { s.stock("shirt", 1); s.journaled(); s.typed("FLUSHALL") }, nil},
		{"only the meta key deleted", func(s *shop) { s.stock("shirt", 1); s.journaled(); s.typed("DEL", "inventory.meta") }, nil},
		{"a meta key that says nothing", func(s *shop) { s.stock("shirt", 1); s.journaled(); s.typed("HDEL", "inventory.meta", "epoch") }, nil},
		{"a meta key that is none", func(s *shop) { s.stock("shirt", 1); s.typed("SET", "inventory.meta", "x") }, errWrongType},
		{"Redis behind what the journal lacks", func(s *shop) { s.stock("shirt", 1); s.journalSays(2) }, ErrJournalIncomplete},
		{"the meta key deleted, and the journal behind", func(s *shop) { s.stock("shirt", 1); s.typed("DEL", "inventory.meta") }, ErrUnjournaled},
		{"a stream that no command wrote", func(s *shop) { s.typed("FLUSHALL"); s.typed("XADD", "inventory.events", "*", "hello", "world") }, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			test.arrange(s)
			next := s.anotherService()
			err := next.Open(s.ctx, s.postgres)
			if errors.Is(test.want, errWrongType) {
				if err == nil || !strings.Contains(err.Error(), "WRONGTYPE") {
					t.Errorf("got %v, want Redis's own error", err)
				}
			} else if !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, test.want)
			}
			_, err = next.Reserve(s.ctx, s.request("shirt", 1))
			if refused := errors.Is(err, ErrNotReady); refused != (test.want != nil) {
				t.Errorf("reserve: got %v; want NOT_READY: %t", err, test.want != nil)
			}
			err = next.Ready(s.ctx)
			if test.want != nil && !errors.Is(test.want, errWrongType) && !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("ready: got %v, want it to say %v", err, test.want)
			}
		})
	}
}

var errWrongType = errors.New("stands for an error of Redis's own")

// TestRolledBackWhileServing holds that a Redis that comes back older than it was does not sell, and that readiness
// says so.
func TestRolledBackWhileServing(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 5)
	s.hold("shirt", 1)
	s.typed("HSET", "inventory.meta", "seq", 1)
	_, err := s.Reserve(s.ctx, s.request("shirt", 1))
	wantRefusal(t, err, ErrStale)
	if err := s.Ready(s.ctx); !errors.Is(err, ErrStale) {
		t.Errorf("ready: got %v, want ErrStale", err)
	}
	s.typed("FLUSHALL")
	if err := s.Ready(s.ctx); !errors.Is(err, ErrEmptied) {
		t.Errorf("ready: got %v, want ErrEmptied", err)
	}
}

// TestSchemaMissing holds that a pool is not opened without a journal to compare with.
func TestSchemaMissing(t *testing.T) {
	t.Parallel()
	s := closedShop(t)
	config := s.postgres.Copy()
	config.RuntimeParams["search_path"] = "pg_temp"
	if err := s.Open(s.ctx, config); err == nil {
		t.Error("it opened without the schema")
	}
	if keys, err := s.operator.Exists(s.ctx, events.MainPool.MetaKey()).Result(); keys != 0 || err != nil {
		t.Errorf("the log was begun (%v)", err)
	}
}
