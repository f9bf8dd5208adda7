package commands

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/stockstream/stockstream/internal/testenv"
)

// TestRedisCannotWrite holds that a Redis that is full or read-only refuses without a trace, and that the same command
// is taken once it can write again.
func TestRedisCannotWrite(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ begin, end []any }{
		"out of memory": {[]any{"CONFIG", "SET", "maxmemory", "1"}, []any{"CONFIG", "SET", "maxmemory", "0"}},
		"read-only":     {[]any{"REPLICAOF", "127.0.0.1", "1"}, []any{"REPLICAOF", "NO", "ONE"}},
		"too few replicas": {
			[]any{"CONFIG", "SET", "min-replicas-to-write", "1"}, []any{"CONFIG", "SET", "min-replicas-to-write", "0"},
		},
		"scripts forgotten": {[]any{"SCRIPT", "FLUSH"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t)
			s.stock("shirt", 2)
			h := s.hold("shirt", 1)
			s.typed(test.begin...)
			before, request := s.dump(), s.request("shirt", 1)
			commands := map[string]func() error{
				"reserve": func() error { return ignore(s.Reserve(s.ctx, request)) },
				"confirm": func() error { return ignore(s.Confirm(s.ctx, Confirm{HoldID: h, PaymentRef: "p"})) },
				"adjust": func() error {
					return ignore(s.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: 1, Reason: "found", IdempotencyKey: "a"}))
				},
				"ready": func() error { return s.Ready(s.ctx) },
			}
			if test.end != nil {
				for name, command := range commands {
					if err := command(); !errors.Is(err, ErrUnavailable) {
						t.Errorf("%s: got %v, want ErrUnavailable", name, err)
					}
				}
				s.wantUnchanged(t, before)
				s.typed(test.end...)
			}
			for name, command := range commands {
				if err := command(); err != nil {
					t.Errorf("%s, afterwards: %v", name, err)
				}
			}
			s.wantStock(t, "shirt", 1)
		})
	}
}

// farService returns a service whose way to Redis is through a proxy.
func (s *shop) farService() (*Service, *testenv.Proxy) {
	s.t.Helper()
	proxy := testenv.NewProxy(s.t, s.server.Addr())
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), ContextTimeoutEnabled: true})
	s.t.Cleanup(func() { _ = client.Close() })
	far := serviceOn(s.t, client)
	if err := far.Open(s.ctx, s.postgres); err != nil {
		s.t.Fatal(err)
	}
	return far, proxy
}

// TestLostAnswer holds that a command whose answer was lost on the way has one effect, and that the client that waits
// for it still learns of that effect.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 100)
	far, proxy := s.farService()
	for i := range 10 {
		sold := int64(2 * i)
		if _, err := far.Reserve(s.ctx, s.request("shirt", 1)); err != nil { // warms a connection up
			t.Fatal(err)
		}
		proxy.LoseAnswers(1)
		r, err := far.Reserve(s.ctx, s.request("shirt", 1))
		if err != nil || r.Replayed || r.Status != HoldActive {
			t.Fatalf("reserve with a lost answer: got %+v (%v), want a hold that is not marked as a repeat", r, err)
		}
		if log := s.log(); int64(len(log)) != 1+sold+2 {
			t.Fatalf("the log has %d events, want %d", len(log), 1+sold+2)
		}
	}
	proxy.LoseAnswers(1)
	a, err := far.AdjustStock(s.ctx, AdjustStock{SKU: "shirt", Delta: 5, Reason: "found", IdempotencyKey: "a"})
	if err != nil || a.Replayed || a.Available != 85 {
		t.Errorf("adjust with a lost answer: got %+v (%v), want 85 available", a, err)
	}
	s.wantStock(t, "shirt", 85)
}

// TestSilentRedis holds that a command gives up in time, and that its key tells afterwards what became of it.
func TestSilentRedis(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 2)
	far, proxy := s.farService()
	if _, err := far.Reserve(s.ctx, s.request("shirt", 1)); err != nil {
		t.Fatal(err)
	}
	proxy.Silence(true)
	request := s.request("shirt", 1)
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := far.Reserve(ctx, request); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it gave up after %s", took)
	}
	proxy.Silence(false)
	proxy.Cut()
	r, err := far.Reserve(s.ctx, request)
	if err != nil {
		t.Fatalf("again with the same key: %v", err)
	}
	s.wantStock(t, "shirt", 0)
	if log := s.log(); len(log) != 3 {
		t.Errorf("the log has %d events, want 3: the hold %s once", len(log), r.HoldID)
	}
}

// TestSilentRedisAlone holds that commands give up although those who send them do not: one is under way, the rest wait for
// their turn.
func TestSilentRedisAlone(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 100)
	far, proxy := s.farService()
	far.batcher.timeout = 200 * time.Millisecond
	proxy.Silence(true)
	var group sync.WaitGroup
	for range 50 {
		request := s.request("shirt", 1)
		group.Go(func() {
			if _, err := far.Reserve(context.Background(), request); !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
	group.Wait()
}

// TestKilledRedis holds that what was acknowledged is there after kill -9, and that service goes on by itself.
func TestKilledRedis(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	s.stock("shirt", 50)
	var holds []string
	for range 20 {
		holds = append(holds, s.hold("shirt", 1))
	}
	if err := s.server.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reserve(s.ctx, s.request("shirt", 1)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("reserve without a Redis: got %v, want ErrUnavailable", err)
	}
	if err := s.Ready(s.ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready without a Redis: got %v, want ErrUnavailable", err)
	}
	if err := s.server.Start(s.ctx); err != nil {
		t.Fatal(err)
	}
	for _, h := range holds {
		if _, err := s.Confirm(s.ctx, Confirm{HoldID: h, PaymentRef: "p"}); err != nil {
			t.Errorf("hold %s was acknowledged: %v", h, err)
		}
	}
	s.wantStock(t, "shirt", 30)
}

// replyError is an error that Redis itself answered.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

// TestErrorsOfRedis holds which answers of Redis mean "later", and which mean that a key is broken.
func TestErrorsOfRedis(t *testing.T) {
	t.Parallel()
	tests := []struct {
		reply error
		want  *Error
	}{
		{replyError("LOADING Redis is loading the dataset in memory"), ErrUnavailable},
		{replyError("MISCONF Redis is configured to save RDB snapshots"), ErrUnavailable},
		{replyError("BUSY Redis is busy running a script"), ErrUnavailable},
		{replyError("NOPERM this user has no permissions"), ErrUnavailable},
		{replyError("ERR OOM command not allowed when used memory > 'maxmemory'"), ErrUnavailable},
		{replyError("WRONGTYPE Operation against a key"), ErrUnavailable},
		{scriptError("WRONGTYPE Operation against a key"), ErrStateInvalid},
		{fmt.Errorf("dial tcp: %w", context.DeadlineExceeded), ErrUnavailable},
		{errors.New("EOF"), ErrUnavailable},
		{replyError("ERR The stream has exhausted the last possible ID"), ErrUnavailable},
		{ErrSoldOut, ErrSoldOut},
	}
	for _, test := range tests {
		if got := decisionError(test.reply); !errors.Is(got, test.want) {
			t.Errorf("%v: got %v, want %s", test.reply, got, test.want.Code)
		}
	}
}

// TestCloseBesideASilentRedis holds that a Redis which does not answer holds nobody up at the end.
func TestCloseBesideASilentRedis(t *testing.T) {
	t.Parallel()
	s := openShop(t)
	far, proxy := s.farService()
	proxy.Silence(true)
	ctx, cancel := context.WithTimeout(s.ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := far.Available(ctx, "shirt"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	began := time.Now()
	if err := far.Close(); err == nil {
		t.Error("the read that is under way has ended; it was to hang")
	}
	if took := time.Since(began); took > 2*closeMax {
		t.Errorf("closing took %s", took)
	}
	proxy.Silence(false)
	proxy.Cut() // and the read comes to its end, too
}
